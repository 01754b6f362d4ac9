import csv
import logging
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock

from ser.data.cache import FeatureCache
from ser.data.corpus import Corpus, Utterance
from ser.encoders import LogMel, SpeechEncoder, WhisperEncoder, encode
from ser.errors import SerError
from ser.extraction import sharing
from ser.extraction.frames import extract
from ser.extraction.inventory import AudioHashes
from ser.extraction.voices import other_voices

SECONDS = (0.9, 0.3, 1.4, 0.5, 0.7, 1.1)


def build_corpus(folder, sessions=2):
    generator = np.random.default_rng(0)
    utterances = []
    for session in range(1, sessions + 1):
        for number, seconds in enumerate(SECONDS):
            path = Path(folder) / f"s{session}_{number}.wav"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.1 * generator.standard_normal(int(16000 * seconds)), 16000)
            utterances.append(Utterance(path.stem, path, "sad", f"speaker{session}", session, "F", seconds))
    return Corpus("toy", ("sad",), tuple(utterances))


@pytest.fixture
def corpus(tmp_path):
    return build_corpus(tmp_path / "wav")


class Counting(LogMel):
    """Log-mel that counts what it encodes and can break or dawdle."""

    encoded = 0
    poison = None
    pause = 0.0

    def forward(self, waveforms, lengths):
        time.sleep(self.pause)
        if self.poison is not None and self.encoded >= self.poison:
            raise KeyboardInterrupt
        self.encoded += len(waveforms)
        return super().forward(waveforms, lengths)


def run(corpus, root, encoder=None, **settings):
    settings = {"batch_seconds": 2.0, "show_progress": False} | settings
    return extract(corpus, encoder or LogMel(), root, **settings)


def contents(root):
    """Frames by what they were made from, however they are spread over shards."""
    cache = FeatureCache.of_shards(sorted(Path(root).rglob("*.safetensors")))
    return {recording: cache.read(name).tobytes() for name, recording in cache.recordings.items()}


def contents_of_files(root):
    return {path: path.read_bytes() for path in sorted(Path(root).rglob("*.safetensors"))}


def test_cached_frames_equal_recomputed_ones(corpus, tmp_path):
    from tiny_encoders import save_tiny_hubert  # late: the killed process imports this file and needs no transformers

    encoder = SpeechEncoder(str(save_tiny_hubert(tmp_path / "hubert")))
    result = run(corpus, tmp_path / "cache", encoder)
    assert result.extracted == 12 and not result.failures and result.cache.dim == 16
    for utterance in corpus.utterances:
        waveform = torch.from_numpy(soundfile.read(utterance.path, dtype="float32")[0])
        expected = encode(encoder, [waveform])[0]
        found = torch.from_numpy(result.cache.read(utterance.id)).float()
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)  # half precision


def test_a_complete_cache_is_reused_without_loading_weights(corpus, tmp_path, caplog):
    from tiny_encoders import save_tiny_hubert

    folder = save_tiny_hubert(tmp_path / "hubert")
    run(corpus, tmp_path / "cache", SpeechEncoder(str(folder)))
    before = contents(tmp_path / "cache")
    files = sorted((tmp_path / "cache").rglob("*"))
    moved = shutil.move(folder, tmp_path / "elsewhere")
    encoder = SpeechEncoder(str(moved))
    with caplog.at_level(logging.INFO):
        result = run(corpus, tmp_path / "cache", encoder)
    assert (result.extracted, result.reused) == (0, 12) and "reusing cache" in caplog.text
    assert encoder.model is None and contents(tmp_path / "cache") == before
    assert sorted((tmp_path / "cache").rglob("*")) == files


@pytest.mark.parametrize("shard_bytes", [1, 64_000_000])
def test_an_interrupted_extraction_ends_with_the_same_frames(corpus, tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr(sharing, "SHARD_BYTES", shard_bytes)
    run(corpus, tmp_path / "whole")
    encoder = Counting()
    encoder.poison = 4
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "cache", encoder)
    shards = contents_of_files(tmp_path / "cache")
    assert len(shards) == (4 if shard_bytes == 1 else 2)  # two portions of two batches
    rest = Counting()
    result = run(corpus, tmp_path / "cache", rest)
    assert rest.encoded == result.extracted and encoder.encoded + rest.encoded == 12
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")
    assert shards.items() <= contents_of_files(tmp_path / "cache").items()  # shards are final


def extract_slowly(folder, pause, **settings):
    """A process that extracts the corpus in ``folder``, a shard per batch."""
    import children  # late: a spawned process imports this file and needs no training

    def work():
        sharing.SHARD_BYTES = 1
        encoder = Counting()
        encoder.pause = pause
        run(build_corpus(folder / "wav"), folder / "cache", encoder, **settings)

    return children.begin(folder / "cache", work)


def test_a_killed_extraction_resumes(corpus, tmp_path):
    run(corpus, tmp_path / "whole")
    process = extract_slowly(tmp_path, 0.05)
    while process.running and len(list((tmp_path / "cache").rglob("frames-*"))) < 3:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    lock = next((tmp_path / "cache").rglob("*.lock"))
    (lock.parent / f".frames-{lock.stem}-0009.1.tmp.safetensors").write_bytes(b"half written")
    result = run(corpus, tmp_path / "cache")
    assert not [path for path in lock.parent.iterdir() if not path.name.startswith("frames-")]  # no lock, no leftover
    assert 0 < result.extracted < 12 and result.extracted + result.reused == 12
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def _extract_slowly(folder, root, sessions, queue, barrier):
    encoder = Counting()
    encoder.pause = 0.05
    barrier.wait()
    result = run(build_corpus(folder, sessions), root, encoder)
    queue.put((encoder.encoded, result.extracted + result.reused, len(result.cache.lengths)))


@pytest.mark.parametrize("sessions", [1, 2])
def test_processes_at_once_share_the_work(tmp_path, sessions):
    corpus = build_corpus(tmp_path / "wav", sessions)
    run(corpus, tmp_path / "whole")
    context = multiprocessing.get_context("fork")
    queue, barrier = context.Queue(), context.Barrier(3)
    arguments = (tmp_path / "wav", tmp_path / "cache", sessions, queue, barrier)
    processes = [context.Process(target=_extract_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    total = 6 * sessions
    assert sum(encoded for encoded, _, _ in found) == total and sum(encoded > 0 for encoded, _, _ in found) > 1
    assert all((available, cached) == (total, total) for _, available, cached in found)
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_processes_of_its_own_extract_the_same_frames(tmp_path):
    corpus = build_corpus(tmp_path / "wav", sessions=1)
    alone = run(corpus, tmp_path / "whole")
    (tmp_path / "wav" / "s1_0.wav").write_bytes(b"no audio at all")
    result = run(corpus, tmp_path / "cache", processes=2)
    assert (result.extracted, result.reused, set(result.failures)) == (5, 0, {"s1_0"})
    assert all(np.array_equal(result.cache.read(name), alone.cache.read(name)) for name in result.cache.lengths)
    assert not list((tmp_path / "cache").rglob("*.lock"))
    with pytest.raises(SerError, match=r"extraction\.processes=0"):
        run(corpus, tmp_path / "other", processes=0)


def test_processes_of_a_killed_one_stop_and_keep_what_they_finished(corpus, tmp_path):
    process = extract_slowly(tmp_path, 0.3, processes=2)
    while process.running and not list((tmp_path / "cache").rglob("frames-*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    for lock in (tmp_path / "cache").rglob("*.lock"):
        FileLock(lock).acquire(timeout=60).lock.release()  # free as soon as its holder has stopped
    assert 0 < run(corpus, tmp_path / "cache").extracted < 12
    run(corpus, tmp_path / "whole")
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("told, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_extraction_that_is_told_to_end_keeps_what_it_finished(corpus, tmp_path, processes, told, code):
    import children

    def work():
        logging.basicConfig(force=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
        encoder = Counting()
        encoder.pause = 0.3
        try:
            run(corpus, tmp_path / "cache", encoder, processes=processes)
        except SystemExit as ended:
            return ended.code
        except KeyboardInterrupt:
            return 130  # as the command does
        return 0

    process = children.begin(tmp_path / "cache", work)
    while process.running and not list((tmp_path / "cache").rglob("frames-*")):
        time.sleep(0.01)
    os.kill(process.pid, told)
    ended = process.wait()
    assert ended.code == code and "Traceback" not in ended.shown
    assert ended.shown.count("the same command goes on") == 1
    for lock in (tmp_path / "cache").rglob("*.lock"):
        FileLock(lock).acquire(timeout=0).lock.release()  # its processes have ended, too
    assert 0 < run(corpus, tmp_path / "cache").extracted < 12
    run(corpus, tmp_path / "whole")
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_one_bad_file_never_stops_the_rest(corpus, tmp_path):
    bad = {"s1_0": b"no audio at all", "s2_3": b""}
    for name, content in bad.items():
        (tmp_path / "wav" / f"{name}.wav").write_bytes(content)
    soundfile.write(tmp_path / "wav" / "s1_2.wav", np.zeros(100), 16000)
    (tmp_path / "wav" / "s2_5.wav").unlink()
    result = run(corpus, tmp_path / "cache")
    assert set(result.failures) == {"s1_0", "s2_3", "s1_2", "s2_5"} and result.extracted == 8
    assert "at least one frame" in result.failures["s1_2"]
    kept = corpus.without(result.failures)
    assert {u.id for u in kept.utterances} == set(result.cache.lengths)
    listed = next((tmp_path / "cache").rglob("failures.csv"))
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"]: row["reason"] for row in rows} == result.failures
    assert list(rows[0]) == ["id", "path", "reason"]

    for number, name in enumerate(result.failures, start=1):  # repaired
        soundfile.write(tmp_path / "wav" / f"{name}.wav", 0.1 * number * np.ones(8000), 16000)
    again = run(corpus, tmp_path / "cache")
    assert (again.extracted, again.reused, again.failures) == (4, 8, {}) and not listed.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_recordings_of_little_use_are_named_and_encoded(corpus, tmp_path, caplog, processes):
    tone = np.sin(np.arange(8000) / 20)
    for name, samples in {"s1_0": 0 * tone, "s1_3": 0 * tone + 0.2, "s2_1": np.clip(4 * tone, -1, 1)}.items():
        soundfile.write(tmp_path / "wav" / f"{name}.wav", samples, 16000)
    result = run(corpus, tmp_path / "cache", processes=processes)
    assert result.extracted == 12 and not result.failures
    for text in ("1 recording is silent, listen: s1_0", "offset), listen: s1_3", "clipped"):
        assert text in caplog.text
    caplog.clear()
    run(corpus, tmp_path / "cache")
    assert "listen:" not in caplog.text


def test_a_corpus_without_any_good_file_is_an_error(corpus, tmp_path):
    for utterance in corpus.utterances:
        utterance.path.write_bytes(b"nothing")
    with pytest.raises(SerError, match="none of the 12"):
        run(corpus, tmp_path / "cache")


def test_frames_beyond_half_precision_are_a_failure(corpus, tmp_path):
    class Loud(LogMel):
        def forward(self, waveforms, lengths):
            frames, counts = super().forward(waveforms, lengths)
            return frames * torch.where(counts < 20, 1e6, 1.0)[:, None, None], counts

    result = run(corpus, tmp_path / "cache", Loud())
    assert set(result.failures) == {"s1_1", "s2_1"} and "half precision" in result.failures["s1_1"]


def test_more_utterances_are_added_to_a_complete_cache(corpus, tmp_path):
    few = Corpus("toy", ("sad",), corpus.utterances[::2])
    run(few, tmp_path / "cache")
    encoder = Counting()
    result = run(corpus, tmp_path / "cache", encoder)
    assert encoder.encoded == 6 and set(result.cache.lengths) == {u.id for u in corpus.utterances}
    assert run(few, tmp_path / "cache").extracted == 0


def test_replaced_audio_and_other_boundaries_are_extracted_beside(corpus, tmp_path):
    first = run(corpus, tmp_path / "cache")
    path = corpus.utterances[0].path
    content = path.read_bytes()
    os.utime(path, (1, 1))
    assert run(corpus, tmp_path / "cache").extracted == 0  # same content at another time
    soundfile.write(path, 0.1 * np.ones(8000), 16000)
    replaced = run(corpus, tmp_path / "cache")
    assert (replaced.extracted, replaced.reused) == (1, 11) and replaced.cache.lengths["s1_0"] == 24
    moved = Corpus("toy", ("sad",), (replace(corpus.utterances[0], end=0.3), *corpus.utterances[1:]))
    segment = run(moved, tmp_path / "cache")
    assert segment.extracted == 1 and segment.cache.lengths["s1_0"] == 14
    path.write_bytes(content)
    again = run(corpus, tmp_path / "cache")
    assert again.extracted == 0 and np.array_equal(again.cache.read("s1_0"), first.cache.read("s1_0"))


def test_audio_of_equal_size_and_time_is_found_by_hashing_again(corpus, tmp_path):
    run(corpus, tmp_path / "cache")
    path = corpus.utterances[0].path
    found, content = path.stat(), bytearray(path.read_bytes())
    content[-2:] = b"\x01\x02"
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    hashes = AudioHashes(tmp_path / "cache" / "toy" / "audio.json")
    assert hashes.changed(utterance.path for utterance in corpus.utterances) == [path]


def test_corpora_of_one_name_with_equal_ids_never_share_frames_of_different_audio(tmp_path):
    """Manifests a.csv and b.csv, or 120 synthetic utterances after 300: same corpus name, same ids, other audio."""
    one, other = build_corpus(tmp_path / "a"), build_corpus(tmp_path / "b")
    for number, utterance in enumerate(other.utterances[:3], 1):
        soundfile.write(utterance.path, 0.1 * number * np.ones(8000), 16000)
    first = run(one, tmp_path / "cache")
    second = run(other, tmp_path / "cache")
    assert second.extracted == 3  # the rest has the same content
    for corpus, result in ((one, first), (other, second)):
        again = run(corpus, tmp_path / "cache")
        assert again.extracted == 0
        assert all(np.array_equal(again.cache.read(u.id), result.cache.read(u.id)) for u in corpus.utterances)
    assert not np.array_equal(first.cache.read("s1_0"), second.cache.read("s1_0"))


def test_missing_audio_is_missing_unless_the_cache_is_trusted(corpus, tmp_path):
    run(corpus, tmp_path / "cache")
    kept = corpus.utterances[0].path.read_bytes()
    corpus.utterances[0].path.unlink()
    result = run(corpus, tmp_path / "cache")
    assert list(result.failures) == ["s1_0"] and "trust_cache=true" in result.failures["s1_0"] and not result.trusted
    assert "s1_0" not in result.cache.lengths
    trusted = run(corpus, tmp_path / "cache", trust_cache=True)
    assert trusted.trusted == ("s1_0",) and not trusted.failures and trusted.cache.lengths["s1_0"]
    corpus.utterances[0].path.write_bytes(kept[:-2] + b"\x01\x02")  # two different recordings are cached under the id
    run(corpus, tmp_path / "cache")
    corpus.utterances[0].path.unlink()
    ambiguous = run(corpus, tmp_path / "cache", trust_cache=True)
    assert "2 different files" in ambiguous.failures["s1_0"] and not ambiguous.trusted


def test_averaging_uses_the_cache_of_every_frame(tmp_path):
    """``ser extract features=whisper_base`` followed by ``experiment=recommended``, which averages 4 frames."""
    from tiny_encoders import save_tiny_whisper

    corpus = build_corpus(tmp_path / "wav", sessions=1)
    folder = str(save_tiny_whisper(tmp_path / "whisper", window=100))
    assert run(corpus, tmp_path / "cache", WhisperEncoder(folder)).extracted == 6
    assert run(corpus, tmp_path / "cache", WhisperEncoder(folder, average=4)).extracted == 0


def test_another_cut_of_the_waveforms_extracts_anew(corpus, tmp_path):
    whole, cut = (run(corpus, tmp_path, LogMel(max_seconds=seconds)) for seconds in (None, 0.6))
    assert cut.extracted == len(corpus.utterances)
    assert run(corpus, tmp_path, LogMel(max_seconds=0.6)).extracted == run(corpus, tmp_path, LogMel()).extracted == 0
    name = corpus.utterances[0].id
    assert (cut.cache.read(name) == whole.cache.read(name)[: cut.cache.lengths[name]]).all()
    assert max(cut.cache.lengths.values()) == (9600 - 400) // 320 + 1


def test_copies_in_other_voices_have_caches_of_their_own_and_are_the_same_every_time(corpus, tmp_path):
    encoder = LogMel()
    plain = run(corpus, tmp_path / "cache", encoder).cache
    copies = [run(corpus, tmp_path / "cache", voice).cache for voice in other_voices(encoder, 2)]
    again = [run(corpus, tmp_path / "again", voice).cache for voice in other_voices(encoder, 2)]
    assert len([path for path in (tmp_path / "cache" / corpus.name).iterdir() if path.is_dir()]) == 3
    name = corpus.utterances[0].id
    for one, two in zip(copies, again, strict=True):
        np.testing.assert_array_equal(one.read(name), two.read(name))
        assert one.recordings == plain.recordings  # the copies of a recording belong to its content
    assert not np.array_equal(copies[0].read(name), copies[1].read(name))
    assert encoder.voice is None
    with pytest.raises(SerError, match=r"augmentation\.voices=1 .* expected audio"):
        other_voices(encoder, 1, own_frames=True)


def test_frames_made_by_another_library_version_are_reused_with_a_warning(corpus, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ser.data.cache.version", lambda package: "0.1" if package == "torch" else "1.0")
    run(corpus, tmp_path / "cache")
    monkeypatch.undo()
    assert run(corpus, tmp_path / "cache").extracted == 0
    assert "made with torch 0.1, " in caplog.text


def test_other_frame_code_extracts_again(corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "cache")
    monkeypatch.setattr("ser.data.cache.FRAME_CODE", 99)
    assert run(corpus, tmp_path / "cache").extracted == 12


def test_a_read_only_cache_can_be_used(corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "cache")
    os.utime(corpus.utterances[0].path, (1, 1))  # hashed again, which cannot be remembered

    def refuse(*given):
        raise SerError("could not write")

    monkeypatch.setattr("ser.extraction.inventory.write_text", refuse)
    assert run(corpus, tmp_path / "cache").extracted == 0


def test_a_damaged_shard_is_named_and_costs_only_itself(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "SHARD_BYTES", 1)
    run(corpus, tmp_path / "cache")
    shard = sorted((tmp_path / "cache").rglob("frames-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(SerError, match=rf"{shard.name} is damaged.* delete"):
        run(corpus, tmp_path / "cache")
    shard.unlink()
    assert run(corpus, tmp_path / "cache").extracted == 1


def test_encoders_and_corpora_do_not_share_files(corpus, tmp_path):
    first = run(corpus, tmp_path / "cache")
    second = run(corpus, tmp_path / "cache", LogMel(mels=40))
    assert (first.cache.dim, second.cache.dim) == (80, 40)
    foreign, *_, ours = sorted((tmp_path / "cache").rglob("frames-*"), key=lambda p: FeatureCache.of_shards([p]).dim)
    shutil.copy(foreign, ours)
    with pytest.raises(SerError, match="frames of another encoder"):
        run(corpus, tmp_path / "cache")


def test_a_corpus_may_make_its_own_frames(corpus, tmp_path):
    class Source:
        dim = 3

        def description(self):
            return {"encoder": "made up"}

        def frames(self, utterances):
            for utterance in utterances:
                yield utterance, torch.full((7, 3), float(utterance.session))

    made = Corpus("toy", ("sad",), corpus.utterances, Source())
    result = run(made, tmp_path / "cache")
    assert result.extracted == 12 and (result.cache.read("s2_0") == 2).all()
    assert extract(made, None, tmp_path / "cache").reused == 12


def test_unfit_arguments_are_refused(corpus, tmp_path):
    with pytest.raises(SerError, match="0 utterances"):
        run(Corpus("toy", ("sad",), ()), tmp_path)
    with pytest.raises(SerError, match="plain name"):
        run(Corpus("../toy", ("sad",), corpus.utterances), tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SerError, match="choose another cache folder"):
        run(corpus, tmp_path / "file")


def test_frames_of_other_library_versions_are_told(corpus, tmp_path, monkeypatch, caplog):
    run(corpus, tmp_path / "cache")
    monkeypatch.setattr("ser.extraction.inventory.library_versions", lambda: {"torch": "0.1", "soxr": "1"})
    run(corpus, tmp_path / "cache")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2 and f"made with torch {version('torch')}, installed is 0.1" in told[0]
    assert "made with soxr (unknown version), installed is 1" in told[1]
    caplog.clear()
    monkeypatch.undo()
    run(corpus, tmp_path / "cache")
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
