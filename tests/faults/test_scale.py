"""Much at once: a recording of three hours, a folder of 20,000 files, 50 browser windows."""

import json
import os
import struct
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from checkpoints import save_checkpoint, voice
from children import command, isolated, run_words
from fake_corpora import write_manifest, write_voice

from ser.data.cache import FeatureCache
from ser.evaluation.scores import cross_speaker
from ser.evaluation.significance import difference_intervals, permutation_tests, scores_with_interval
from ser.inference.vad import EnergyGate

RATE, HOURS = 16000, 3
SPARE_MB = 250  # that something large may take beyond something small: three hours are 690 MB of float32 samples


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "run" / "checkpoints" / "best.ckpt")


def write_sparse(path, seconds, spoken):
    """A WAV of silence that takes no space on the disk, with ``spoken`` seconds of a voice at its end."""
    samples = (voice(spoken).clamp(-1, 1) * 32767).short().numpy().tobytes()
    size = seconds * RATE * 2
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16,
                         b"data", size)  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
        file.seek(len(header) + size - len(samples))
        file.write(samples)
    return path


@pytest.mark.faults
@pytest.mark.parametrize("how", [["predict"], ["listen", "--input"]])
def test_three_hours_take_no_more_memory_than_ten_minutes(tmp_path, model, how):
    peaks = []
    for seconds in (600, HOURS * 3600):
        path = write_sparse(tmp_path / f"{seconds}.wav", seconds, 20)
        words = ["ser", *how, path, "--checkpoint", model, "--window", "60", "--hop", "60", "--no-gate"]
        words += ["--output", tmp_path / "table.csv"]
        ended = isolated(tmp_path / "child", lambda words=words: run_words(list(map(str, words))), patience=600)
        assert ended.code == 0, ended.shown[-2000:]
        peaks.append(ended.peak_mb)
        table = pd.read_csv(tmp_path / "table.csv")
        assert len(table) == seconds // 60
        assert table.filter(like="p_").notna().all(axis=None)
    assert peaks[1] < peaks[0] + SPARE_MB


@pytest.mark.faults
def test_segments_of_three_hours_are_extracted_one_by_one(tmp_path):
    table = write_manifest(tmp_path, utterances_per_speaker_and_emotion=1, seconds=0.3, session=True)
    write_sparse(tmp_path / "audio" / "long.wav", HOURS * 3600, 20)
    rows = pd.read_csv(table).assign(start="", end="")
    rows.loc[0, ["path", "start", "end"]] = ["audio/long.wav", str(HOURS * 3600 - 5), str(HOURS * 3600 - 3)]
    rows.to_csv(table, index=False)
    words = ["ser", "extract", "data=manifest", f"data.manifest={table}", f"paths.cache={tmp_path}/cache"]
    ended = command(tmp_path / "cache", *words)
    assert ended.code == 0, ended.shown
    lengths = FeatureCache.of_shards((tmp_path / "cache").rglob("frames-*.safetensors")).lengths
    assert len(lengths) == 24 and max(lengths.values()) > 5 * min(lengths.values())  # 2 s beside 0.3 s
    again = command(tmp_path / "cache", *words)
    assert ended.peak_mb < again.peak_mb + SPARE_MB


@pytest.mark.faults
def test_a_folder_of_20000_files(tmp_path, model):
    folder = tmp_path / "many"
    voices = [write_voice(tmp_path / f"{number}.wav", "s1", "happy", 0.1, True) for number in range(8)]
    for number in range(20_000):
        place = folder / f"{number % 100:02d}"
        if number < 100:
            place.mkdir(parents=True)
        os.link(voices[number % len(voices)], place / f"{number}.wav")
    few = command(tmp_path / "child", "ser", "predict", folder / "00", "--checkpoint", model, "--no-gate")
    words = ["ser", "predict", folder, "--checkpoint", model, "--no-gate", "--output", tmp_path / "table.csv"]
    many = command(tmp_path / "child", *words)
    assert few.code == many.code == 0, many.shown[-2000:]
    assert len(pd.read_csv(tmp_path / "table.csv")) == 20_000
    assert many.peak_mb < few.peak_mb + SPARE_MB


@pytest.mark.faults
def test_scores_of_100_classes_take_no_confusion_matrix_per_utterance(tmp_path):
    generator, names = np.random.default_rng(0), np.array([f"c{number}" for number in range(100)])
    utterances, speakers = 50_000, 500  # a matrix for each utterance or speaker would take 4 GB or 40 MB per resample
    answers = names[generator.integers(100, size=(3, utterances))]
    facts = {"id": map(str, range(utterances)), "speaker": generator.integers(speakers, size=utterances).astype(str)}
    table = pd.DataFrame({**facts, "session": 1, "gender": "", "seconds": 1.0, "emotion": answers[0]})
    table = pd.concat([table, pd.DataFrame(0.01, table.index, [f"p_{name}" for name in names])], axis=1)
    a, b = (table.assign(predicted=guesses) for guesses in answers[1:])

    def work():
        found = [scores_with_interval(a)["uar_interval"], cross_speaker(a)["intervals"]["average_f1"]]
        found += [interval[1:] for interval in difference_intervals(a, b).values()]
        found += [[p] for p in permutation_tests(a, b, by="utterance", repetitions=99).values()]
        return int(not np.isfinite(np.concatenate(found)).all())

    ended = isolated(tmp_path / "child", work, memory_mb=400)
    assert ended.code == 0, ended.shown


@pytest.fixture
def served(tmp_path, model, monkeypatch):
    """The page at an address of this computer; its sessions, and the address."""
    pytest.importorskip("gradio", reason="the page needs Gradio")
    import uvicorn

    from ser.demo import server

    monkeypatch.setattr(server, "best_gate", EnergyGate)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    listener = server._listener("127.0.0.1", 0)
    app, sessions = server.make_page(server.Settings([model]), tmp_path)
    serving = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=serving.run, args=([listener],), daemon=True)
    thread.start()
    yield sessions, f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving.should_exit = True
    thread.join(10)
    sessions.close_all()


def ask(address, content=None):
    with urllib.request.urlopen(urllib.request.Request(address, data=content), timeout=120) as answer:
        return answer.read()


@pytest.mark.faults
def test_50_windows_listen_at_once_and_none_hears_another(served):
    sessions, address = served

    def visit(number):
        assert b"gradio" in ask(f"{address}/")
        token = sessions.of(f"window{number}", "127.0.0.1").token
        sound = voice(6.0 + number % 3, seed=number).numpy().astype("<f4")
        for first in range(0, len(sound), 8000):
            ask(f"{address}/ser/{token}/block?first={first}&rate={RATE}", sound[first : first + 8000].tobytes())
        ask(f"{address}/ser/{token}/stop", b"")
        return json.loads(ask(f"{address}/ser/{token}/history.json"))

    with ThreadPoolExecutor(50) as pool:
        histories = list(pool.map(visit, range(50)))
    assert len(sessions) == 50
    lengths = [[row["seconds"] for row in rows] for rows in histories]
    assert lengths == [[pytest.approx(6.0 + number % 3, abs=0.05)] for number in range(50)]
    assert np.isfinite([[row["confidence"] for row in rows] for rows in histories]).all()
