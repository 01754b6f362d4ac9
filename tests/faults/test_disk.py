"""A disk that is full, or may only be read: one sentence, an exit code, and what was there before intact."""

import contextlib
import os
import re
import shutil
import subprocess

import pytest
from children import TINY, command
from whole import assert_whole, results

SENTENCE = r"(could not write|could not be read or written|the disk is full|expected a writable)"


@contextlib.contextmanager
def mounted(place, size_kb, content=None, read_only=False):
    """A file system of its own at ``place``, with a copy of ``content``; read-only from then on where asked."""
    place.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip("needs root and the right to mount a small file system")
    try:
        if content is not None:
            shutil.copytree(content, place, dirs_exist_ok=True)
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, capture_output=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def fill(place, leave_kb):
    """Leave only so much room."""
    free = os.statvfs(place)
    with contextlib.suppress(OSError), (place / "filler").open("wb") as file:
        file.write(b"\0" * max(0, free.f_bavail * free.f_frsize - leave_kb * 1024))


def told(ended):
    """The command failed with one sentence that says why."""
    flat = " ".join(ended.shown.split())
    assert ended.code == 1, ended.shown
    assert "Traceback" not in flat, ended.shown
    assert re.search(SENTENCE, flat), ended.shown
    assert len(re.findall(r"(?m)^error: ", ended.shown)) == 1, ended.shown


@pytest.fixture(scope="module")
def finished(corpus, cache, tmp_path_factory):
    """Two finished runs of one sweep."""
    folder = tmp_path_factory.mktemp("finished") / "outputs"
    words = [*corpus, *TINY, f"paths.cache={cache}", f"paths.outputs={folder}", "leakage=false"]
    ended = command(folder, "sweep.py", *words, "variant=gru", "fold=1,2")
    assert ended.code == 0, ended.shown
    return folder


COMMANDS = {  # what writes, and the words behind it; {place} is the outputs folder, {run} a run in it
    "cache": ["ser", "extract", "paths.cache={place}/cache"],
    "training": ["train.py", "paths.run='{run}'"],
    "sweep": ["sweep.py", "variant=gru", "fold=1,2,3"],
    "report": ["ser", "report", "{run}"],
    "probe": ["ser", "probe", "{run}"],
    "figures": ["ser", "figures", "{run}"],
    "predict": ["ser", "predict", "{audio}", "--checkpoint", "{run}", "--output", "{place}/table.csv"],
    "onnx": ["ser", "export", "--checkpoint", "{run}"],
    "hub": ["ser", "export", "--checkpoint", "{run}", "--format", "hub"],
}


def words_for(name, place, corpus, cache):
    run = next(place.rglob("metrics.json")).parent
    audio = next(path for path in cache.parent.parent.rglob("*.wav"))
    words = [word.format(place=place, run=run, audio=audio) for word in COMMANDS[name]]
    if name in ("cache", "training", "sweep"):
        settings = [] if name == "cache" else [*TINY, "leakage=false"]
        words += [*corpus, *settings, f"paths.outputs={place}"]
        words += [] if name == "cache" else [f"paths.cache={cache}"]
    return words


@pytest.mark.faults
@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_every_writer(name, fault, finished, corpus, cache, tmp_path):
    place = tmp_path / "disk"
    with mounted(place, 40_000, finished, read_only=fault == "read-only"):
        if fault == "full":
            fill(place, leave_kb=0)
        before = results(place)
        ended = command(tmp_path / "elsewhere", *words_for(name, place, corpus, cache))
        told(ended)
        after = results(place)
        assert before.items() <= after.items()
        assert_whole(place)


@pytest.mark.faults
@pytest.mark.parametrize("leave_kb", [60, 150, 300, 500])
def test_training_that_fills_the_disk_goes_on_when_there_is_room(corpus, cache, tmp_path, leave_kb):
    place, whole = tmp_path / "disk", tmp_path / "whole"
    words = ["train.py", *corpus, *TINY, f"paths.cache={cache}", "leakage=false", "model.hidden_size=16"]
    assert command(whole, *words, f"paths.run={whole}").code == 0
    with mounted(place, 40_000):
        fill(place, leave_kb)
        ended = command(tmp_path / "log", *words, f"paths.run={place}/run")
        told(ended)
        assert_whole(place / "run")
        (place / "filler").unlink()
        ended = command(tmp_path / "log", *words, f"paths.run={place}/run", "resume=true")
        assert ended.code == 0, ended.shown
        assert results(place / "run") == results(whole)
