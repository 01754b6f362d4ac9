"""SIGKILL at seeded moments: the same command again ends as if nothing had happened, and no part counts as a whole."""

import random
import shutil
import signal

import pytest
from children import TINY, Kill, command
from fake_corpora import write_manifest
from whole import assert_whole, results

DELAYS = (0, 0, 1, 5)  # milliseconds after a change: at it, or inside what follows


def moments(changes, among, count, seed):
    """``count`` seeded moments among the changes whose text contains one of the words."""
    places = [number for number, change in enumerate(changes) if any(word in change for word in among)]
    generator = random.Random(seed)
    return [Kill(place, generator.choice(DELAYS)) for place in sorted(generator.sample(places, count))]


def compare(folder, undisturbed, words, kills, again=()):
    """Kill and restart once a moment; ``folder`` holds what the killed command starts from."""
    expected = results(undisturbed)
    assert expected
    for number, kill in enumerate(kills):
        place = folder.with_name(f"killed{number}")
        if folder.exists():
            shutil.copytree(folder, place)
        mine = [str(word).replace(str(undisturbed), str(place)) for word in words]
        first = command(place, *mine, kill=kill)
        assert first.code in (-signal.SIGKILL, 0), first.shown  # 0: it was over before the blow
        if place.exists():
            assert_whole(place)
        second = command(place, *mine, *again)
        assert second.code == 0, (kill, second.shown)
        assert results(place) == expected, kill
        assert_whole(place)
        assert not [path for path in place.rglob("*.tmp*") if again or path.suffix == ".safetensors"]
        shutil.rmtree(place)


def test_extraction_killed(corpus, tmp_path):
    words = ["ser", "extract", *corpus, f"paths.cache={tmp_path / 'whole'}", "extraction.batch_seconds=4"]
    ended = command(tmp_path / "whole", *words)
    assert ended.code == 0, ended.shown
    kills = moments(ended.changes, ["frames-"], 5, seed=1)
    compare(tmp_path / "none", tmp_path / "whole", words, kills)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("among", "count", "more"),
    [
        (["history", "predictions", "metrics", "leakage"], 5, ["lr_schedule=cosine"]),
        (["checkpoints"], 4, ["lr_schedule=plateau", "leakage=false"]),
        (["tensorboard"], 2, ["logger=tensorboard", "leakage=false"]),
    ],
)
def test_training_killed(corpus, cache, tmp_path, among, count, more):
    place = tmp_path / "whole"
    small = [word for word in TINY if not word.startswith("logger") or "logger=tensorboard" not in more]
    words = ["train.py", *corpus, *small, f"paths.cache={cache}", f"paths.run={place}", *more]
    ended = command(place, *words)
    assert ended.code == 0, ended.shown
    kills = moments(ended.changes, among, count, seed=2)
    compare(tmp_path / "none", place, words, kills, again=["resume=true"])


@pytest.mark.faults
def test_sweep_killed(corpus, cache, tmp_path):
    place = tmp_path / "whole"
    words = ["sweep.py", *corpus, *TINY, f"paths.cache={cache}", f"paths.outputs={place}", "variant=gru,enhanced_gru",
             "fold=1,2", "model.dropout=0.3", "trainer.max_epochs=2"]  # fmt: skip
    ended = command(place, *words)
    assert ended.code == 0, ended.shown
    kills = moments(ended.changes, ["checkpoints", "metrics", "leakage", "predictions", "summary"], 3, seed=3)
    compare(tmp_path / "none", place, words, kills)


@pytest.mark.faults
def test_cross_killed(tmp_path):
    """The same command again repeats no finished cell and writes the same matrix."""
    corpora = []
    for name, seconds in (("one", 0.3), ("two", 0.4)):  # other recordings, or the speakers would count as heard
        (tmp_path / name).mkdir()
        table = write_manifest(tmp_path / name, utterances_per_speaker_and_emotion=2, seconds=seconds, session=True)
        corpora += ["--corpus", f"data=manifest data.manifest={table.rename(table.with_name(f'{name}.csv'))}"]
    place = tmp_path / "whole"
    words = ["ser", "cross", *corpora, *TINY, f"paths.cache={tmp_path}/cache", "leakage=false", "fold=1,2"]
    ended = command(place, *words, f"paths.outputs={place}")
    assert ended.code == 0, ended.shown
    expected, matrix = results(place), next(place.rglob("matrix.csv")).read_text()
    assert matrix.count("\n") == 5
    first_split = next(number for number, change in enumerate(ended.changes) if "-on-" in change and "split" in change)
    kills = [Kill(first_split)]  # a cell with predictions and without scores
    kills += [
        *moments(ended.changes, ["-on-"], 1, seed=4),
        *moments(ended.changes, ["matrix", "checkpoints"], 1, seed=5),
    ]
    for number, kill in enumerate(kills):
        killed = tmp_path / f"killed{number}"
        assert command(killed, *words, f"paths.outputs={killed}", kill=kill).code in (-signal.SIGKILL, 0)
        assert_whole(killed)
        finished = {path: path.stat().st_mtime_ns for path in killed.rglob("metrics.json")}
        again = command(killed, *words, f"paths.outputs={killed}")
        assert again.code == 0, (kill, again.shown)
        assert {path: path.stat().st_mtime_ns for path in finished} == finished, kill
        assert results(killed) == expected, kill
        assert next(killed.rglob("matrix.csv")).read_text() == matrix
        assert_whole(killed)
        shutil.rmtree(killed)


@pytest.mark.faults
def test_sweep_killed_while_it_sums_up(corpus, cache, tmp_path):
    """Every file of the summary is absent, as before, or whole; the runs are not touched."""
    place = tmp_path / "whole"
    words = ["sweep.py", *corpus, *TINY, f"paths.cache={cache}", f"paths.outputs={place}", "variant=gru,enhanced_gru",
             "baseline=gru", "fold=1,2", "leakage=false", "trainer.max_epochs=1"]  # fmt: skip
    assert command(place, *words).code == 0
    ended = command(place, *words)  # nothing is left to do but the summary
    assert ended.code == 0, ended.shown
    expected = results(place)
    writes = [number for number, change in enumerate(ended.changes) if "summary" in change]
    assert len(writes) >= 6  # at least three files, each written and renamed
    for number in writes[::2]:
        for file in place.rglob("summary*"):
            file.unlink()
        killed = command(place, *words, kill=Kill(number))
        assert killed.code == -signal.SIGKILL, killed.shown
        assert_whole(place)
        assert results(place).items() <= expected.items()
    assert command(place, *words).code == 0
    assert results(place) == expected


@pytest.mark.faults
def test_report_killed(corpus, cache, tmp_path):
    place = tmp_path / "runs" / "run"
    ended = command(place, "train.py", *corpus, *TINY, f"paths.cache={cache}", f"paths.run={place}")
    assert ended.code == 0, ended.shown
    words = ["ser", "report", str(place)]
    ended = command(place, *words)
    assert ended.code == 0 and ended.changes, ended.shown
    expected = results(place)
    for kill in [Kill(number, delay) for number in range(len(ended.changes)) for delay in (0, 1)][:3]:
        (place / "report.html").unlink()
        assert command(place, *words, kill=kill).code in (-signal.SIGKILL, 0)
        assert_whole(place)
        assert command(place, *words).code == 0
        assert results(place) == expected


@pytest.mark.faults
def test_export_killed(corpus, cache, tmp_path):
    """The file is absent or whole after a kill, and the same command writes the file of an undisturbed export."""
    run, place = tmp_path / "run", tmp_path / "exported"
    trained = command(run, "train.py", *corpus, *TINY, f"paths.cache={cache}", f"paths.run={run}")
    assert trained.code == 0, trained.shown
    file = place / "model.onnx"
    words = ["ser", "export", "--checkpoint", run, "--output", file]
    ended = command(place, *words)
    assert ended.code == 0 and ended.changes, ended.shown
    expected = file.stat().st_size
    for kill in [Kill(number, delay) for number in range(len(ended.changes)) for delay in (0, 1)][:4]:
        shutil.rmtree(place)
        assert command(place, *words, kill=kill).code in (-signal.SIGKILL, 0)
        assert not file.exists() or file.stat().st_size == expected
        again = command(place, *words)
        assert again.code == 0, again.shown
        assert file.stat().st_size == expected
