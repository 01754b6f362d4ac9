"""The live loop: exact windows, none lost or doubled but those counted, offline results, silence and bad input."""

import itertools
import json
import os
import threading

import numpy as np
import pandas as pd
import pytest
import soundfile
from checkpoints import save_checkpoint, voice

from ser.errors import SerError
from ser.inference.listening import Recording, listen
from ser.inference.recognizer import Recognizer
from ser.inference.sources import RingBuffer, Source, file_source, microphone_source
from ser.inference.streaming import StreamingRecognizer
from ser.inference.vad import EnergyGate, best_gate


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class SlowModel:
    """Stands in for the network and waits to be let through, window by window."""

    def __init__(self, recognizer):
        self.config, self.encoder, self.emotions = recognizer.config, recognizer.encoder, recognizer.emotions
        self.recognizer, self.started, self.permits = recognizer, threading.Semaphore(0), threading.Semaphore(0)

    def predict_batch(self, waveforms):
        self.started.release()
        self.permits.acquire()
        return self.recognizer.predict_batch(waveforms)


def values(probabilities):
    return np.array(list(probabilities.values()))


@pytest.mark.parametrize("sizes", [[1], [7, 3, 20], [4, 4], [100, 2]])
def test_ring_buffer_holds_exactly_the_last_samples(sizes):
    buffer, everything, number = RingBuffer(10), np.zeros(10, np.float32), 0
    for step in range(30):
        block = np.arange(number, number + sizes[step % len(sizes)], dtype=np.float32) + 1
        number += len(block)
        everything = np.concatenate((everything, block))
        buffer.write(block)
        assert np.array_equal(buffer.latest(), everything[-10:])
        assert (len(buffer), buffer.clock) == (10, number)


def test_ring_buffer_is_never_seen_half_written():
    buffer = RingBuffer(64)

    def write():
        for value in range(3000):
            buffer.write(np.full(64, value, np.float32))

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert len(set(buffer.latest().tolist())) == 1
    writer.join()


@pytest.mark.parametrize(("rate", "block"), [(16000, 1600), (16000, 777), (44100, 4410), (8000, 50_000)])
def test_every_window_equals_offline_prediction_of_its_samples(recognizer, rate, block):
    wave = voice(4.3, rate=rate).numpy()
    with StreamingRecognizer(recognizer, rate, window=2.0, hop=0.5) as stream:
        for start in range(0, len(wave), block):
            stream.write(wave[start : start + block], wait=True)
    events = stream.history()
    assert [event.index for event in events] == list(range(5))
    assert (stream.processed, stream.dropped) == (5, 0)
    for event in events:
        assert (event.start, event.end) == (event.index * 0.5, event.index * 0.5 + 2.0)
        offline = recognizer(wave[round(event.start * rate) : round(event.end * rate)], rate)
        assert event.prediction.seconds == pytest.approx(2.0, abs=1 / 16000)
        assert values(event.prediction.probabilities) == pytest.approx(values(offline.probabilities), abs=1e-6)


def test_a_minute_in_real_time_loses_and_doubles_nothing_but_what_it_counts(recognizer, tmp_path):
    soundfile.write(tmp_path / "minute.wav", voice(60).numpy(), 16000)
    clock = Clock()
    source = file_source(tmp_path / "minute.wav", realtime=True, block=0.03, clock=clock, sleep=clock.sleep)
    seen = []

    def look(window):  # a gate that is shown every window
        seen.append(len(window))
        return []

    with StreamingRecognizer(recognizer, source.sample_rate, gate=look, clock=clock) as stream:
        for block in source.blocks:
            stream.write(block)
    assert clock.now == pytest.approx(60, abs=1e-6)
    indices = [event.index for event in stream.history()]
    assert indices == sorted(set(indices))
    every = 1 + (60 - 5) * 2
    assert stream.processed + stream.dropped == every or (
        stream.every > 1 and stream.processed + stream.dropped < every
    )
    assert stream.processed == len(indices) == len(seen)
    assert set(seen) == {5 * 16000}


def test_a_slow_model_drops_windows_and_answers_the_newest(recognizer):
    slow, clock = SlowModel(recognizer), Clock()
    with StreamingRecognizer(slow, window=1.0, hop=0.5, clock=clock) as stream:
        stream.write(voice(1.0).numpy())  # window 0 begins to be answered
        slow.started.acquire()
        stream.write(voice(1.5, 1).numpy())  # windows 1, 2, 3 come meanwhile
        clock.sleep(1.5)
        for _ in range(2):
            slow.permits.release()
    assert [event.index for event in stream.history()] == [0, 3]
    assert stream.dropped == 2
    assert stream.history()[0].latency == pytest.approx(1.5)


def test_a_stream_whose_answers_nobody_takes_ends_without_dropping_windows(recognizer):
    def closed(event):
        raise BrokenPipeError

    stream = StreamingRecognizer(recognizer, window=1.0, hop=0.5, on_event=closed)
    with pytest.raises(BrokenPipeError), stream:
        for _ in range(60):
            stream.write(voice(0.5).numpy(), wait=True)
    assert stream.dropped == 0 and stream.seconds <= 2.0


def test_a_slow_machine_lengthens_the_hop_and_says_so_once(recognizer, caplog):
    slow, clock = SlowModel(recognizer), Clock()
    with StreamingRecognizer(slow, window=1.0, hop=0.1, clock=clock) as stream:
        stream.write(voice(1.0).numpy())  # window 0 begins to be answered
        slow.started.acquire()
        for number in range(8):
            clock.sleep(0.1)
            stream.write(voice(0.1, number).numpy())
        assert stream.every == 5 and stream.hop_seconds == pytest.approx(0.5)  # four windows late, and a fifth more
        for _ in range(30):
            slow.permits.release()
        stream.write(voice(0.4, 9).numpy(), wait=True)
    indices = [event.index for event in stream.history()]
    assert indices == sorted(set(indices))
    for event in stream.history():
        assert (event.start, event.end) == pytest.approx((event.index / 10, event.index / 10 + 1))
    assert caplog.text.count("at least 0.4 s per window of 1 s, so an answer comes every 0.5 s") == 1


def test_the_hop_never_grows_beyond_the_window(recognizer):
    slow, clock = SlowModel(recognizer), Clock()
    with StreamingRecognizer(slow, window=1.0, hop=0.5, clock=clock) as stream:
        stream.write(voice(1.0).numpy())
        slow.started.acquire()
        for number in range(40):
            stream.write(voice(0.5, number).numpy())
        for _ in range(40):
            slow.permits.release()
    assert stream.every == 2  # hop = window: every sample is in one window


def test_silence_has_no_emotion(recognizer):
    silence = np.zeros(16000, np.float32)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    for gate in (best_gate(), EnergyGate()):
        with StreamingRecognizer(recognizer, window=1.0, hop=1.0, gate=gate) as stream:
            for block in (silence, noise):
                stream.write(block, wait=True)
        assert [event.label for event in stream.history()] == [None, None]
        assert all(event.prediction is None and event.error is None for event in stream.history())


def test_smoothing_follows_the_recurrence_and_forgets_at_silence(recognizer):
    speech, silence = voice(3.0).numpy(), np.zeros(32000, np.float32)
    with StreamingRecognizer(recognizer, window=1.0, hop=0.5, smoothing=0.7, gate=EnergyGate()) as stream:
        for start in range(0, 96000, 8000):
            stream.write(np.concatenate((speech, silence, speech[:16000]))[start : start + 8000], wait=True)
    past = None
    for event in stream.history():
        if event.prediction is None:
            past = None
            assert event.probabilities is None
            continue
        now = values(event.prediction.probabilities)
        past = now if past is None else 0.7 * past + 0.3 * now
        assert values(event.probabilities) == pytest.approx(past, abs=1e-9)
    assert any(event.prediction is None for event in stream.history())


def test_speaker_models_use_running_statistics(tmp_path):
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", kind="speaker"))
    with StreamingRecognizer(recognizer, window=1.0, hop=0.5) as stream:
        for start in range(0, 48000, 4000):
            stream.write(voice(3.0).numpy()[start : start + 4000], wait=True)
    assert {event.prediction.normalization for event in stream.history()} == {"stream"}
    # Every frame is counted once: 3 seconds on top of the 10 of the prior.
    assert stream._running._count == pytest.approx(50 * 13, abs=6)


@pytest.mark.parametrize("ending", ["mp3", "ogg", "flac", "wav"])
def test_blocks_of_a_file_are_the_whole_and_the_decoder_has_no_complaints(tmp_path, ending, capfd):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, voice(2.0).clamp(-1, 1).numpy(), 16000)
    whole, _ = soundfile.read(path, dtype="float32")
    blocks = np.concatenate(list(file_source(path, realtime=False).blocks))[:, 0]
    assert len(blocks) == len(whole) and np.abs(blocks - whole).max() < 1e-6
    assert capfd.readouterr().err == ""


def test_bad_samples_are_told_and_the_stream_goes_on(recognizer):
    with StreamingRecognizer(recognizer, window=1.0, hop=1.0) as stream:
        stream.write(np.full(16000, np.nan, np.float32), wait=True)
        stream.write(voice(1.0).numpy(), wait=True)
    first, second = stream.history()
    assert "NaN" in first.error
    assert first.prediction is None
    assert second.error is None
    assert second.prediction is not None


def test_a_defect_ends_the_stream_loudly(recognizer):
    def broken(window):
        raise ZeroDivisionError

    stream = StreamingRecognizer(recognizer, window=1.0, hop=1.0, gate=broken).start()
    with pytest.raises(ZeroDivisionError):
        stream.write(voice(3.0).numpy(), wait=True)
    with pytest.raises(ZeroDivisionError):
        stream.stop()


@pytest.mark.parametrize("settings", [{"window": 0}, {"window": 100}, {"hop": 0}, {"smoothing": 1.0}])
def test_settings_that_make_no_sense(recognizer, settings):
    with pytest.raises(SerError, match=r"expected a (window|number from 0)"):
        StreamingRecognizer(recognizer, **settings)


def test_a_file_arrives_whole_at_the_pace_it_plays(tmp_path):
    wave = voice(1.27, rate=22050).numpy()
    soundfile.write(tmp_path / "a.wav", wave, 22050, subtype="FLOAT")
    clock = Clock()
    source = file_source(tmp_path / "a.wav", clock=clock, sleep=clock.sleep)
    assert (source.sample_rate, source.realtime) == (22050, True)
    assert np.array_equal(np.concatenate(list(source.blocks))[:, 0], wave)
    assert clock.now == pytest.approx(1.27, abs=1e-4)
    with pytest.raises(SerError, match="cannot be read as audio"):
        file_source(tmp_path / "missing.wav")


PATIENCE = 60.0  # seconds

FAKE_SOUNDDEVICE = """
import json, os, pathlib, struct, threading, time
os.write(2, b"ALSA lib: a complaint")
PLUG = pathlib.Path(__file__).with_name("plugged.json")  # there while the device is
class PortAudioError(Exception): pass
def query_devices(device=None, kind=None):
    if kind is None:
        return [{"index": at, "name": name, "max_input_channels": 1 - at} for at, name in enumerate(("fake", "out"))]
    if device == "twice":
        raise ValueError("Multiple input devices found for 'twice':\\n[0] fake, API\\n[1] fake, API")
    if not PLUG.exists():
        raise PortAudioError("Error querying device -1")
    return {"default_samplerate": 48000.0, "name": "fake", "index": 0, "hostapi": 0, **json.loads(PLUG.read_text())}
def query_hostapis(index):
    return {"name": "API"}
class RawInputStream:
    def __init__(self, callback, device, samplerate, channels, dtype, blocksize):
        self.callback, self.size, self.active, self.found = callback, blocksize, True, query_devices(device, "input")
        if self.found.get("refuses"):
            raise PortAudioError("Error opening stream: Device unavailable")
    def __enter__(self):
        if self.found.get("ended"):
            self.send()
        else:
            threading.Thread(target=self.send, daemon=True).start()
        return self
    def __exit__(self, *error):
        pass
    def send(self):  # the values, and then it is unplugged, which ends the stream or leaves it silent
        for value in self.found["values"]:
            self.callback(struct.pack("f", value) * self.size, self.size, None, None)
        time.sleep(self.found.get("silent", 0))
        PLUG.unlink(missing_ok=True)
        self.active = False
"""


class FakeMicrophone:
    """A sounddevice for the process that captures; the device sends its values whenever it is opened."""

    def __init__(self, folder):
        folder.mkdir()
        (folder / "sounddevice.py").write_text(FAKE_SOUNDDEVICE)
        self.place = folder / "plugged.json"

    def plug(self, values, **facts):
        self.place.with_suffix(".new").write_text(json.dumps({"values": values, **facts}))
        self.place.with_suffix(".new").replace(self.place)


@pytest.fixture
def microphone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "fake"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("ser.inference.sources._NEXT_ATTEMPT", 0.0)
    monkeypatch.setattr("ser.inference.sources._SILENT_DEVICE", PATIENCE)  # a busy machine starts a process slowly
    monkeypatch.setattr("ser.inference.sources._OPENING", PATIENCE)
    return FakeMicrophone(tmp_path / "fake")


def heard(source, count):
    return [float(block[0, 0]) for block in itertools.islice(source.blocks, count)]


def test_no_microphone_and_no_sounddevice(microphone, capfd):
    with pytest.raises(
        SerError, match=r"no microphone 3 can be opened \(Error querying device -1; there are: 0 fake\)"
    ):
        microphone_source(3)
    with pytest.raises(SerError, match=r"\(Multiple input devices found for 'twice'; there are: 0 fake\)"):
        microphone_source("twice")
    microphone.plug([], refuses=True)
    with pytest.raises(SerError, match="Device unavailable"):
        microphone_source()
    microphone.place.with_name("sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    with pytest.raises(SerError, match=r"needs sounddevice and PortAudio \(PortAudio library not found\)"):
        microphone_source()
    assert capfd.readouterr().err == ""  # of libraries; what Python has to say is kept
    microphone.place.with_name("sounddevice.py").write_text("1 / 0")
    with pytest.raises(SerError):
        microphone_source()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_microphone_keeps_the_order_of_its_blocks(microphone):
    microphone.plug([], silent=60)
    source = microphone_source()
    microphone.plug([0, 1, 2], silent=60)
    assert (source.name, source.sample_rate, source.realtime) == ("fake", 48000, True)
    assert next(source.blocks).shape == (4800, 1)
    assert heard(source, 2) == [1, 2]
    source.blocks.close()


def test_what_came_before_the_end_of_a_stream_is_heard(microphone):
    microphone.plug([], silent=60)
    source = microphone_source()
    microphone.plug([1, 2], ended=True)  # before its first block is read
    assert heard(source, 2) == [1, 2]
    source.blocks.close()


@pytest.mark.parametrize("silent", [0, 60])  # the stream ends, or nothing comes any more
def test_an_unplugged_microphone_is_waited_for(microphone, monkeypatch, caplog, silent):
    microphone.plug([], silent=60)
    source = microphone_source(0)
    microphone.plug([1, 2], silent=silent)
    assert heard(source, 2) == [1, 2]
    monkeypatch.setattr("ser.inference.sources._SILENT_DEVICE", 0.5)
    assert next(source.blocks).shape == (0, 1)
    monkeypatch.setattr("ser.inference.sources._SILENT_DEVICE", PATIENCE)
    microphone.place.unlink(missing_ok=True)
    assert all(len(block) == 0 for block in itertools.islice(source.blocks, 3))
    microphone.plug([], refuses=True)
    assert all(len(block) == 0 for block in itertools.islice(source.blocks, 3))
    microphone.plug([3, 4], silent=60)
    assert heard(source, 2) == [3, 4]
    source.blocks.close()
    beginnings = [" ".join(record.message.split()[:4]) for record in caplog.records]
    assert beginnings == ["the microphone is gone", "the microphone is there,", "listening again, to fake,"]


def test_a_gap_is_said_and_no_window_crosses_it(recognizer):
    sound = voice(4.0).numpy()
    with StreamingRecognizer(recognizer, window=1.0, hop=0.5, smoothing=0.5) as stream:
        stream.write(sound[:20000], wait=True)
        stream.interrupt("gone")
        stream.interrupt("back")
        for start in range(20000, 64000, 4000):
            stream.write(sound[start : start + 4000], wait=True)
    events = stream.history()
    assert [event.index for event in events] == sorted({event.index for event in events})
    gone, back = (event for event in events if event.error)
    assert (gone.error, gone.start, gone.end, gone.prediction) == ("gone", 1.25, 1.25, None)
    assert (back.error, back.start, back.end) == ("back", 1.25, 1.25)
    answers = [event for event in events if event.prediction]
    assert stream.processed == len(answers) > 3 and stream.dropped == 0
    assert all(event.end <= 1.25 or event.start >= 1.25 for event in answers)
    first = next(event for event in answers if event.start >= 1.25)
    assert first.probabilities == pytest.approx(first.prediction.probabilities)  # smoothing begins anew
    whole = recognizer(sound[round(first.start * 16000) : round(first.end * 16000)], 16000)
    assert values(first.prediction.probabilities) == pytest.approx(values(whole.probabilities), abs=1e-6)


def test_listening_goes_on_after_a_gap_with_recording_and_lines(recognizer, tmp_path, capsys):
    sound = voice(4.0).numpy()[:, None]
    nothing = np.zeros((0, 1), np.float32)

    def blocks():
        yield from (sound[:16000], nothing, nothing, sound[16000:32000], sound[32000:])
        yield nothing
        raise KeyboardInterrupt  # while it waits

    source = Source("fake", 16000, False, blocks())
    listen(recognizer, source, tmp_path / "table.csv", True, window=1.0, hop=0.5, record=tmp_path / "kept.wav")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(line["error"]) for line in lines] == [False, True, True, False, False, False, True]
    assert all((line["emotion"] is None) == bool(line["error"]) for line in lines)
    assert "missing here" in lines[2]["error"]
    assert [line["start"] for line in lines[1:3]] == [1.0, 1.0]
    assert lines == [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    kept, rate = soundfile.read(tmp_path / "kept.wav")
    assert rate == 16000 and kept == pytest.approx(sound[:, 0], abs=1e-4)
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(lines)


class FullDisk(soundfile.SoundFile):
    """A file that takes two blocks."""

    def write(self, block):
        if self.frames >= 2 * len(block):
            raise soundfile.LibsndfileError(2, "No space left")
        super().write(block)


def test_a_full_disk_ends_the_recording_and_not_the_listening(tmp_path, monkeypatch, caplog):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    blocks = [np.full((100, 1), value, np.float32) for value in (0.0, 0.25, 0.5, 0.75)]
    monkeypatch.setattr(soundfile, "SoundFile", FullDisk)
    heard = Recording(path, 16000, ("happy", "sad")).hearing(iter(blocks))
    assert [float(block[0, 0]) for block in heard] == [0, 0.25, 0.5, 0.75]
    assert caplog.text.count("ends here") == 1
    assert len(soundfile.read(os.fsencode(path))[0]) == 200


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    for path, reason in ((tmp_path, "a folder"), (tmp_path / os.fsdecode(b"\xe9.wav"), "no such file")):
        with pytest.raises(SerError, match=reason) as refused:
            file_source(path)
        str(refused.value).encode()
