"""Many processes on one empty cache; caches that may be shared and those that may not."""

import os
import re
import subprocess
import sys

import pytest
from children import ROOT, TINY, command
from fake_corpora import write_iemocap
from whole import assert_whole, results

from ser.data.corpora.iemocap import iemocap
from ser.encoders import LogMel
from ser.errors import SerError
from ser.extraction.frames import extract


def extracted(text):
    return sum(map(int, re.findall(r"extracted (\d+) utterances", " ".join(text.split()))))


def test_label_sets_share_frames_since_these_do_not_depend_on_labels(tmp_path):
    """By design: merging excited into happy, or taking fewer classes, must not extract a corpus again."""
    root = write_iemocap(tmp_path / "IEMOCAP", seconds=0.2)
    merged, apart = iemocap(root), iemocap(root, ["happy", "excited", "sad"], merge_excited=False)
    assert merged.fingerprint() != apart.fingerprint()
    first = extract(merged, LogMel(), tmp_path / "cache", show_progress=False)
    second = extract(apart, LogMel(), tmp_path / "cache", show_progress=False)
    assert first.extracted == len(merged.utterances) and second.extracted == 0
    labels = [{u.id: u.emotion for u in corpus.utterances} for corpus in (merged, apart)]
    changed = [name for name in labels[1] if labels[0][name] != labels[1][name]]
    assert changed  # the labels come from the corpus at hand, never from the cache
    assert all(second.cache.lengths[name] == first.cache.lengths[name] for name in changed)


def test_settings_of_an_encoder_have_folders_of_their_own_and_moved_files_are_refused(tmp_path):
    corpus = iemocap(write_iemocap(tmp_path / "IEMOCAP", seconds=0.2))
    for mels in (20, 40):
        extract(corpus, LogMel(mels), tmp_path / "cache", show_progress=False)
    folders = sorted(path for path in (tmp_path / "cache" / "iemocap").iterdir() if path.is_dir())
    assert len(folders) == 2
    for one, other in (folders, folders[::-1]):
        name = next(one.glob("frames-*")).name
        kept = (other / name).read_bytes()
        (other / name).write_bytes((one / name).read_bytes())
        refused = 0
        for mels in (20, 40):
            try:
                extract(corpus, LogMel(mels), tmp_path / "cache", show_progress=False)
            except SerError as error:
                assert one.name in str(error) and other.name in str(error)  # both sides
                refused += 1
        assert refused == 1
        (other / name).write_bytes(kept)


@pytest.mark.faults
def test_two_extractions_and_a_parallel_sweep_at_once_on_an_empty_cache(corpus, cache, tmp_path):
    shared, outputs = tmp_path / "cache", tmp_path / "outputs"
    settings = [*corpus, *TINY, "leakage=false", "trainer.max_epochs=1"]
    sweep = [*settings, "variant=gru,enhanced_gru", "fold=1,2"]
    alone = command(tmp_path / "alone", "sweep.py", *sweep, f"paths.cache={cache}", f"paths.outputs={tmp_path}/alone")
    assert alone.code == 0, alone.shown
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=4"]
    commands = [
        [sys.executable, "-m", "ser.cli", "extract", *corpus, f"paths.cache={shared}"],
        [sys.executable, "-m", "ser.cli", "extract", *corpus, f"paths.cache={shared}"],
        [sys.executable, "sweep.py", *sweep, f"paths.cache={shared}", f"paths.outputs={outputs}", *parallel],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    processes = [
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in commands
    ]
    shown = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], shown
    logs = [path.read_text() for path in outputs.rglob("train.log")]
    assert len(logs) == 4
    assert sum(map(extracted, [*shown[:2], *logs])) == 48  # each utterance once, whoever did it
    assert results(shared) == results(cache)
    assert results(outputs) == results(tmp_path / "alone")
    assert_whole(outputs)
    assert not [path for path in shared.rglob("*") if ".tmp" in path.name]


@pytest.mark.faults
def test_a_sweep_of_four_workers_beside_a_run_of_its_own(corpus, cache, tmp_path):
    """Who comes second says who holds the folder and stops; the same command again has every result."""
    words = [*corpus, *TINY, f"paths.cache={cache}", "leakage=false"]
    sweep = [*words, "variant=gru,enhanced_gru", "baseline=gru", "fold=1,2"]
    alone = command(tmp_path / "alone", "sweep.py", *sweep, f"paths.outputs={tmp_path}/alone")
    assert alone.code == 0, alone.shown
    outputs = f"paths.outputs={tmp_path}/outputs"
    commands = [
        [sys.executable, "train.py", *words, outputs, "model=gru", "fold=1", "resume=true"],
        [sys.executable, "sweep.py", *sweep, outputs, "hydra/launcher=joblib", "hydra.launcher.n_jobs=4"],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    processes = [
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in commands
    ]
    shown = [process.communicate(timeout=400)[0] for process in processes]
    assert not any("Traceback" in text for text in shown), shown
    for process, text in zip(processes, shown, strict=True):
        assert process.returncode == 0 or re.search("is in use by process|was finished by another process", text), text
    again = command(tmp_path / "outputs", "sweep.py", *sweep, outputs)
    assert again.code == 0, again.shown
    assert results(tmp_path / "outputs") == results(tmp_path / "alone")
    assert_whole(tmp_path / "outputs")
