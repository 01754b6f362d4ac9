"""Whatever libsndfile reads becomes 16 kHz mono; whatever is broken is named."""

import errno
import logging
import os
import pickle

import numpy as np
import pytest
import soundfile
import torch

from ser.data.audio import SAMPLE_RATE, duration, read_audio, resample_mono
from ser.data.soundfiles import files_below, printable
from ser.errors import AudioError, SerError


def tone(rate, seconds=0.5, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def similarity(first, second):
    inner = slice(1600, -1600)  # a resampler's and a codec's edges differ
    return torch.corrcoef(torch.stack([first[inner], second[inner]]))[0, 1].item()


@pytest.mark.parametrize(
    "suffix, subtype",
    [
        ("wav", "PCM_U8"),
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "PCM_32"),
        ("wav", "FLOAT"),
        ("wav", "DOUBLE"),
        ("wav", "ULAW"),
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
        ("aiff", "PCM_16"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2), (8000, 1)])
def test_every_format_rate_and_channel_count_gives_the_same_wave(tmp_path, suffix, subtype, rate, channels):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([tone(rate)] * channels, axis=1), rate, subtype=subtype)
    waveform = read_audio(path)
    assert waveform.dtype == torch.float32 and waveform.ndim == 1
    assert len(waveform) == pytest.approx(SAMPLE_RATE / 2, abs=3)
    reference = torch.from_numpy(tone(SAMPLE_RATE)).float()
    length = min(len(waveform), len(reference))
    assert similarity(waveform[:length], reference[:length]) > 0.99
    assert duration(path) == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\1\0" + bytes(128)], ids=["plain", "tagged"])
@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("rate, channels", [(8000, 1), (16000, 2), (44100, 1), (48000, 2)])
def test_an_mp3_of_variable_bit_rate_is_read_whole_though_nothing_counts_its_frames(
    tmp_path, rate, channels, loud_first, tag
):
    noise, silence = 0.2 * np.random.default_rng(0).normal(size=2 * rate), np.zeros(2 * rate)
    sound = np.concatenate([noise, silence] if loud_first else [silence, noise])
    path = tmp_path / "whole.mp3"
    soundfile.write(path, np.stack([sound] * channels, axis=1), rate, bitrate_mode="VARIABLE")
    content = path.read_bytes()
    second = content.index(content[:2], 2)  # behind the frame that counts the others
    assert b"Xing" in content[:second]
    (tmp_path / "uncounted.mp3").write_bytes(tag + content[second:])
    whole, found = read_audio(path), read_audio(tmp_path / "uncounted.mp3")
    assert duration(tmp_path / "uncounted.mp3") == pytest.approx(4, abs=0.15)  # no header says what the codec added
    start = max(range(1600), key=lambda shift: torch.dot(whole[8000:56000], found[8000 + shift : 56000 + shift]))
    assert similarity(whole[:60000], found[start : 60000 + start]) > 0.99


ID3 = b"ID3\4\0\0\0\6\0\0" + bytes(6 << 14)  # such as a cover: 98 kB
APE = b"APETAGEX" + bytes(300)
TIMES = {  # how often the sound is heard
    "uncounted": lambda whole, frames: (frames, 1),
    "cover": lambda whole, frames: (ID3 + frames, 1),
    "two tags": lambda whole, frames: (ID3 + ID3 + frames, 1),
    "tags behind": lambda whole, frames: (frames + APE + b"TAG" + bytes(125), 1),
    "counted, tags behind": lambda whole, frames: (whole + APE + b"TAG" + bytes(125), 1),
    "zeros behind": lambda whole, frames: (frames + bytes(5000), 1),
    "joined": lambda whole, frames: (whole + whole, 2),
    "joined, uncounted": lambda whole, frames: (frames + b"TAG" + bytes(125) + ID3 + frames, 2),
    "joined, mixed": lambda whole, frames: (ID3 + whole + ID3 + frames + bytes(2000) + whole, 3),
}


@pytest.mark.parametrize("case", TIMES)
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2)])
def test_an_mp3_is_read_whole_whatever_lies_between_its_frames(tmp_path, case, mode, rate, channels, capfd, caplog):
    path, odd = tmp_path / "whole.mp3", tmp_path / "odd.mp3"
    soundfile.write(path, np.stack([tone(rate, 2.0)] * channels, axis=1), rate, bitrate_mode=mode)
    whole = path.read_bytes()
    second = next(at for at in range(96, 3000) if whole[at : at + 2] == whole[:2])  # behind the frame that counts
    content, times = TIMES[case](whole, whole[second:])
    odd.write_bytes(content)
    assert len(read_audio(odd)) / SAMPLE_RATE == pytest.approx(2 * times, abs=0.1 * times)
    assert duration(odd) == pytest.approx(2 * times, abs=0.1 * times)
    assert not capfd.readouterr().err and not caplog.records


def test_a_segment_of_an_mp3_is_that_part_and_the_decoder_has_no_complaints(tmp_path, capfd):
    path = tmp_path / "noise.mp3"
    soundfile.write(path, 0.2 * np.random.default_rng(0).normal(size=5 * SAMPLE_RATE), SAMPLE_RATE)
    whole = read_audio(path)
    for start in (0.5, 1.7, 3.2):
        first = round(start * SAMPLE_RATE)
        torch.testing.assert_close(
            read_audio(path, start, start + 1), whole[first : first + SAMPLE_RATE], atol=0, rtol=0
        )
    assert not capfd.readouterr().err


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_segment_is_that_part_of_the_whole(tmp_path, suffix):
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    whole = read_audio(path)
    assert torch.equal(read_audio(path, 0.25, 0.5), whole[4000:8000])
    assert torch.equal(read_audio(path, 0.25), whole[4000:])
    assert torch.equal(read_audio(path, 0.25, 9.0), whole[4000:])


def test_channels_are_averaged():
    stereo = torch.stack([torch.ones(8), torch.zeros(8)], dim=1)
    assert torch.equal(resample_mono(stereo, 16000), torch.full((8,), 0.5))


@pytest.mark.parametrize("rate", [11025, 22050, 22254, 44056, 48000, 96000])
def test_resampling_keeps_the_tone(rate):
    resampled = resample_mono(tone(rate), rate)
    assert len(resampled) == pytest.approx(8000, abs=2)
    assert similarity(resampled[:7998], torch.from_numpy(tone(16000)).float()[:7998]) > 0.999


def broken_files(folder):
    good = folder / "good.wav"
    soundfile.write(good, tone(16000), 16000)
    soundfile.write(folder / "good.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 9000), 16000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.1]), 16000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.0, np.inf, 0.1]), 16000, subtype="FLOAT")
    soundfile.write(folder / "header.wav", np.zeros(0), 16000)
    (folder / "cut.wav").write_bytes(good.read_bytes()[:5000])
    (folder / "cut.flac").write_bytes((folder / "good.flac").read_bytes()[:9000])
    (folder / "zero.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no audio")
    (folder / "headerless.raw").write_bytes(bytes(1000))
    (folder / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")


@pytest.mark.parametrize(
    "name, reason",
    [
        ("nan.wav", "NaN or infinite"),
        ("inf.wav", "NaN or infinite"),
        ("header.wav", "empty"),
        ("zero.wav", "empty"),
        ("cut.wav", "truncated"),
        ("cut.flac", "cannot be decoded|truncated"),
        ("text.wav", "cannot be decoded"),
        ("headerless.raw", "cannot be decoded"),
        ("pointer.wav", "a pointer of Git LFS.*git lfs pull"),
        ("absent.wav", "there is no such file"),
        (".", "it is a folder"),
    ],
)
def test_broken_files_are_refused_by_name_in_one_sentence(tmp_path, name, reason):
    broken_files(tmp_path)
    with pytest.raises(SerError, match=reason) as caught:
        read_audio(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_may_not_be_read_are_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(SerError, match=r"\.wav is no audio file \(File name too long\)"):
        read_audio(tmp_path / f"{'x' * 300}.wav")
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)

    def refuse(path):  # permissions do not stop root, who may run the tests
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("ser.data.soundfiles.only_frames", refuse)
    with pytest.raises(SerError, match=r"a\.wav cannot be decoded as audio \(Permission denied\)"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "kind",
    ["AIFF", "AU", "AVR", "MAT4", "MAT5", "MPC2K", "NIST", "RF64", "SVX", "VOC", "W64", "WAV", "WAVEX", "WVE"],
)
def test_what_a_cut_file_lacks_is_told(tmp_path, kind, channels):
    """In every format whose header says how long it is; IRCAM, PAF and PVF do not say."""
    path, rate = tmp_path / "cut", 8000 if kind == "WVE" else 16000
    samples = np.stack([tone(rate)] * (1 if kind in ("SVX", "WVE") else channels), axis=1)
    soundfile.write(path, samples, rate, "ALAW" if kind == "WVE" else "PCM_16", format=kind)
    assert len(read_audio(path)) == 8000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SerError, match=r"is truncated: \d+ of \d+ (bytes|frames)"):
        read_audio(path)


@pytest.mark.parametrize("kind", ["CAF", "FLAC", "HTK", "SDS"])
def test_what_cannot_be_decoded_once_it_is_cut_is_refused(tmp_path, kind):
    path = tmp_path / "cut"
    soundfile.write(path, tone(16000), 16000, "PCM_16", format=kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SerError, match="cannot be decoded"):
        read_audio(path)


@pytest.mark.parametrize("start, end", [(0.5, None), (7.0, 8.0), (-1.0, None), (0.3, 0.2), (0.2, 0.2)])
def test_impossible_segments_are_refused(tmp_path, start, end):
    broken_files(tmp_path)
    with pytest.raises(SerError, match=r"good\.wav"):
        read_audio(tmp_path / "good.wav", start, end)


def test_a_wav_that_a_pipe_wrote_without_knowing_its_size_is_read(tmp_path):
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tone(16000), 16000)
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path)) == 8000


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_behind_a_header_that_says_0_bytes_are_read_to_the_end(tmp_path, channels, caplog):
    """A recorder that lost power."""
    path = tmp_path / "lost_power.wav"
    soundfile.write(path, np.stack([tone(16000)] * channels, axis=1), 16000)
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = bytes(4)
    whole = read_audio(path)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert duration(path) == 0.5
        assert torch.equal(read_audio(path), whole)
        assert torch.equal(read_audio(path, 0.25), whole[4000:])
    assert caplog.text.count("0 bytes") == 1  # each file once, however often it is opened
    path.write_bytes(content + b"\1")  # a part of a sample
    assert torch.equal(read_audio(path), whole)
    path.write_bytes(content[: data + 8] + b"LIST\4\0\0\0INFO")  # really empty, with a chunk of remarks
    with pytest.raises(SerError, match="empty"):
        read_audio(path)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "PCM_U8", "GSM610", "IMA_ADPCM", "PCM_24", "DOUBLE"])
def test_a_header_that_says_0_bytes_is_overruled_in_every_encoding(tmp_path, subtype):
    path = tmp_path / "lost_power.wav"
    soundfile.write(path, np.concatenate([np.full(1600, -1e-3), tone(16000)]), 16000, subtype=subtype)
    whole, content = read_audio(path), bytearray(path.read_bytes())
    assert torch.equal(read_audio(path, 0.25, 0.5), whole[4000:8000])
    data = content.index(b"data")
    content[data + 4 : data + 8] = bytes(4)
    path.write_bytes(content)
    assert torch.equal(read_audio(path)[: len(whole)], whole)


@pytest.mark.parametrize("size", [bytes, lambda count: b"\xff" * count])
@pytest.mark.parametrize(
    "container, chunk, offset, count",
    [
        (".wav", b"data", 4, 4),  # big-endian
        (".au", b".snd", 8, 4),
        (".aiff", b"SSND", 4, 4),
        (".caf", b"data", 4, 8),  # -1 is what its standard allows
        (".w64", b"data", 16, 8),
    ],
)
def test_other_containers_without_the_size_of_their_samples_are_read_to_the_end(
    tmp_path, container, chunk, offset, count, size, caplog
):
    path = tmp_path / f"lost_power{container}"
    soundfile.write(path, tone(16000), 16000, "PCM_16", endian="BIG" if container == ".wav" else None)
    whole, content = read_audio(path), bytearray(path.read_bytes())
    place = content.index(chunk) + offset
    content[place : place + count] = size(count)
    path.write_bytes(content)
    assert torch.equal(read_audio(path), whole) and duration(path) == 0.5
    assert "read to its end" in caplog.text or size is not bytes


@pytest.mark.parametrize("size", [0, 8, 0x7F000000 + 8, 0xFFFFFFFF])  # 8: without samples; 0x7f000000: of a pipe
def test_an_aiff_that_was_not_closed_is_read_to_its_end(tmp_path, size):
    path = tmp_path / "open.aiff"
    soundfile.write(path, tone(16000), 16000)
    whole, content = read_audio(path), bytearray(path.read_bytes())
    samples = content.index(b"SSND")
    content[samples + 4 : samples + 8] = size.to_bytes(4, "big")
    frames = content.index(b"COMM") + 10
    content[frames : frames + 4] = bytes(4) if size < 9 else b"\x7f\0\0\0"
    path.write_bytes(content)
    assert torch.equal(read_audio(path), whole) and duration(path) == 0.5
    path.write_bytes(content[: samples + 16])
    with pytest.raises(SerError):
        read_audio(path)


@pytest.mark.parametrize("fraction", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_of_an_ogg_that_was_cut_the_rest_is_read_and_told(tmp_path, codec, fraction, caplog):
    path = tmp_path / "cut.ogg"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000, codec, format="OGG")
    whole = read_audio(path)
    assert not caplog.text
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    assert fraction - 0.3 < len(read_audio(path)) / len(whole) < fraction + 0.1
    assert "ends in the middle" in caplog.text


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
@pytest.mark.parametrize("size", [bytes(4), b"\xff" * 4])
def test_an_rf64_without_sizes_is_read_to_its_end(tmp_path, size, name, caplog):
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(16000), 16000, format="RF64")
    content = bytearray(path.read_bytes())
    whole, data = read_audio(path), content.index(b"data")
    content[:4] = name
    path.write_bytes(content)
    assert torch.equal(read_audio(path), whole) and duration(path) == 0.5 and not caplog.text
    content[4:8] = content[data + 4 : data + 8] = size
    content[20:44] = bytes(24)  # the sizes in its ds64 chunk
    path.write_bytes(content)
    assert torch.equal(read_audio(path), whole) and duration(path) == 0.5
    assert caplog.text.count("0 bytes") == 1


@pytest.mark.parametrize("counted", [8000, 8001])  # at any alignment
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "ALAW", "FLOAT"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF"])
def test_samples_that_the_header_does_not_count_are_told(tmp_path, caplog, kind, subtype, counted):
    """A recorder that wrote the size of the samples now and then, and lost power."""
    if not soundfile.check_format(kind, subtype):
        return
    path, wave = tmp_path / "lost_power", tone(16000, 4.0)
    soundfile.write(path, wave, 16000, subtype, format=kind)
    samples = path.read_bytes()[-40000:]
    soundfile.write(path, wave[:counted], 16000, subtype, format=kind)
    few = pytest.approx(counted, abs=1)  # libsndfile counts the byte that fills an AIFF up
    assert len(read_audio(path)) == few and not caplog.text
    path.write_bytes(path.read_bytes() + samples)
    assert len(read_audio(path)) == few
    assert caplog.text.count("bytes more are not read") == 1


@pytest.mark.parametrize("place", [12, 36])
def test_a_remark_that_looks_like_the_header_of_samples_is_none(tmp_path, place):
    path = tmp_path / "remark.wav"
    soundfile.write(path, tone(16000), 16000)
    whole, content = read_audio(path), bytearray(path.read_bytes())
    content[40:44] = bytes(4)
    remark = b"bext" + (602).to_bytes(4, "little") + b"metadata" + bytes(594)
    path.write_bytes(content[:place] + remark + content[place:])
    assert torch.equal(read_audio(path), whole)


def test_folders_are_followed_through_links_but_not_in_circles(tmp_path):
    for path in ("a/1.wav", "b/2.wav", "b/.hidden/3.wav", "b/._2.wav"):
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / path).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "4.wav").touch()
    for link, place in {"self": ".", "a/up": "..", "a/b": "../b", "b/a": "../a", "far": "../elsewhere"}.items():
        (tmp_path / "root" / link).symlink_to(place)
    (tmp_path / "root" / "a" / "ring.wav").symlink_to("ring.wav")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in files_below(tmp_path / "root")]
    assert found == ["a/1.wav", "a/ring.wav", "a/b/2.wav", "b/2.wav", "b/a/1.wav", "b/a/ring.wav", "far/4.wav"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX systems only")
def test_names_that_are_not_utf8_are_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(tmp_path / "plain.wav", tone(16000), 16000)
    (tmp_path / "plain.wav").rename(path)
    assert len(read_audio(path)) == 8000 and duration(path) == 0.5
    path.write_bytes(b"")
    with pytest.raises(SerError, match="empty") as caught:
        read_audio(path)
    assert printable(path).encode() and str(caught.value).encode()


@pytest.mark.parametrize("rate", [0, -16000, 10, 10**7])
def test_unsupported_rates_are_refused(rate):
    with pytest.raises(SerError, match="sample rate"):
        resample_mono(np.zeros(100), rate)


@pytest.mark.parametrize("name", ["absent.wav", "zero.wav", "text.wav", "headerless.raw", "."])
def test_unreadable_files_have_no_duration(tmp_path, name):
    broken_files(tmp_path)
    assert duration(tmp_path / name) == 0.0


def test_what_is_wrong_with_a_recording_crosses_processes():
    error = pickle.loads(pickle.dumps(AudioError("a.wav is empty", "empty")))
    assert (str(error), error.fault) == ("a.wav is empty", "empty")
