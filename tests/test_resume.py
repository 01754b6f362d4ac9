import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import children
import lightning
import pandas as pd
import pytest
from small_runs import TINY, figures

from ser import training
from ser.errors import SerError
from ser.evaluation.figures.style import save_figure

LONGER = [
    "trainer.max_epochs=4",
    "model=enhanced_gru",
    "model.hidden_size=8",
    "augmentation=strong",
    "augmentation.mixup_alpha=0.2",
]
ROOT = Path(training.__file__).resolve().parent.parent


class KilledError(Exception):
    pass


class StopAt(lightning.Callback):
    """Breaks off in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.current_epoch == self.epoch:
            raise KilledError


@pytest.fixture
def kill_at(monkeypatch):
    build = training.build_trainer

    def arm(epoch):
        def with_stop(cfg, **keywords):
            trainer = build(cfg, **keywords)
            trainer.callbacks.append(StopAt(epoch))
            return trainer

        monkeypatch.setattr(training, "build_trainer", with_stop)

    yield arm
    monkeypatch.undo()


def same_run(left, right):
    assert figures(left) == figures(right)
    for name in ("predictions.csv", "train_predictions.csv", "embeddings.npy"):
        assert (left / name).read_bytes() == (right / name).read_bytes()
    columns = ["epoch", "train/loss", "train/uar", "val/loss", "val/uar", "learning_rate", "alpha"]
    histories = [pd.read_csv(folder / "history.csv")[columns] for folder in (left, right)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


@pytest.mark.parametrize("lr_schedule", ["cosine", "plateau"])
def test_interrupted_run_ends_like_an_uninterrupted_one(configure, tmp_path, kill_at, monkeypatch, lr_schedule):
    words = [*LONGER, f"lr_schedule={lr_schedule}", "alpha_schedule=sigmoid"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    training.run(configure(*words, folder=whole))
    kill_at(2)
    with pytest.raises(KilledError):
        training.run(configure(*words, folder=broken))
    assert not (broken / "metrics.json").exists()
    monkeypatch.undo()
    training.run(configure(*words, "resume=true", folder=broken))
    same_run(whole, broken)


def test_run_stopped_early_trains_no_further_epoch_when_resumed(configure, tmp_path, monkeypatch):
    words = [*LONGER, "trainer.max_epochs=30", "callbacks.early_stopping.patience=1", "optimizer.lr=0.0"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    training.run(configure(*words, folder=whole))
    assert figures(whole)["epochs"] < 30

    def full_disk(*arguments):
        raise KilledError

    monkeypatch.setattr(training.RunFolder, "finish", full_disk)
    with pytest.raises(KilledError):
        training.run(configure(*words, folder=broken))
    monkeypatch.undo()
    training.run(configure(*words, "resume=true", folder=broken))
    same_run(whole, broken)


def test_killed_process_goes_on(manifest, cache, tmp_path):
    """SIGKILL from outside, then the same command with resume=true."""
    words = [*TINY, "trainer.max_epochs=12", f"paths.cache={cache}", "data=manifest", f"data.manifest={manifest}"]
    words.append("name=manifest-logmel")  # else with a hash of where the manifest lies
    run = "manifest-logmel/killed/fold1/seed1"

    def start(outputs, *more):
        given = ["train.py", *words, f"paths.outputs={outputs}", "variant=killed", *more]
        return children.begin(outputs, lambda: children.run_words(given, tmp_path))

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended = start(whole).wait()
    assert ended.code == 0, ended.shown
    process = start(broken)
    history = broken / run / "history.csv"
    while process.running and not (history.exists() and len(pd.read_csv(history)) >= 2):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    assert not (broken / run / "metrics.json").exists()
    ended = start(broken, "resume=true").wait()
    assert ended.code == 0, ended.shown
    assert "going on from" in ended.shown
    same_run(whole / run, broken / run)


def test_sigterm_ends_the_program_at_any_moment(configure, tmp_path, monkeypatch):
    """Lightning notes the signal and acts on it in training steps alone; a sweep would go on with its next run."""
    training.run(configure(*LONGER, folder=tmp_path / "whole"))
    build, heard = training.build_trainer, []
    usual = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))  # Lightning calls it, too
    try:
        for number, hook in enumerate(("on_train_batch_end", "on_train_end", "on_predict_end"), 1):
            broken, ender = tmp_path / hook, lightning.Callback()
            setattr(ender, hook, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

            def with_ender(cfg, ender=ender, **keywords):
                trainer = build(cfg, **keywords)
                trainer.callbacks.append(ender)
                return trainer

            with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
                patch.setattr(training, "build_trainer", with_ender)
                training.run(configure(*LONGER, folder=broken))
            assert len(heard) >= number and ended.value.code == 143, hook
            assert not (broken / "metrics.json").exists(), hook
            training.run(configure(*LONGER, "resume=true", folder=broken))
            same_run(tmp_path / "whole", broken)
    finally:
        signal.signal(signal.SIGTERM, usual)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_end"])
def test_ctrl_c_ends_a_run_even_where_its_exception_is_dropped(configure, tmp_path, monkeypatch, hook):
    """Python ignores exceptions in destructors; the run would go on as if nobody had pressed a key."""
    training.run(configure(*LONGER, folder=tmp_path / "whole"))
    build, ender = training.build_trainer, lightning.Callback()

    def drop(*_):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    def with_ender(cfg, **keywords):
        trainer = build(cfg, **keywords)
        trainer.callbacks.append(ender)
        return trainer

    setattr(ender, hook, drop)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "build_trainer", with_ender)
            training.run(configure(*LONGER, folder=tmp_path / "run"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert not (tmp_path / "run" / "metrics.json").exists()
    training.run(configure(*LONGER, "resume=true", folder=tmp_path / "run"))
    same_run(tmp_path / "whole", tmp_path / "run")


def test_finished_run_is_not_repeated(configure, tmp_path):
    training.run(configure(folder=tmp_path / "run"))
    before = (tmp_path / "run" / "metrics.json").stat().st_mtime_ns
    training.run(configure("resume=true", folder=tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.json").stat().st_mtime_ns == before


def everything(folder):
    """All files of a run with their content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_survives_failed_attempts_whole(configure, tmp_path, kill_at, monkeypatch):
    folder = tmp_path / "run"
    training.run(configure(folder=folder))
    (folder / "notes.txt").write_text("mine")
    before = everything(folder)
    for words in (["seed=2"], ["seed=3"], ["data.manifest=/nowhere.csv"], ["model.hidden_size=0"]):
        kill_at(0)
        with pytest.raises((KilledError, SerError)):
            training.run(configure(*words, folder=folder))
        monkeypatch.undo()
        assert everything(folder) == before
    kill_at(1)
    with pytest.raises(KilledError):
        training.run(configure("seed=4", "trainer.max_epochs=3", folder=folder))
    monkeypatch.undo()
    training.run(configure("seed=4", "trainer.max_epochs=3", "resume=true", folder=folder))  # the attempt goes on
    assert figures(folder)["seed"] == 4
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".run.attempt*")) and not list(tmp_path.glob(".run.replaced*"))
    training.run(configure("seed=4", "trainer.max_epochs=3", folder=tmp_path / "whole"))
    same_run(tmp_path / "whole", folder)


@pytest.mark.parametrize("at", ["rename", "rename2", "rmtree"])
def test_a_kill_while_the_new_run_takes_its_place(configure, tmp_path, monkeypatch, at):
    folder = tmp_path / "run"
    training.run(configure(folder=folder))
    rename, calls = Path.rename, []

    def dying(path, target):
        calls.append(path)
        if len(calls) == {"rename": 1, "rename2": 2, "rmtree": 9}[at]:
            raise KilledError
        return rename(path, target)

    def no_rmtree(*arguments, **keywords):
        if at == "rmtree" and "replaced" in str(arguments[0]) and not (tmp_path / ".run.attempt").exists():
            raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Path, "rename", dying)
        patch.setattr("ser.run.folder.shutil.rmtree", no_rmtree)
        training.run(configure("seed=2", folder=folder))
    training.run(configure("seed=2", "resume=true", folder=folder))
    assert figures(folder)["seed"] == 2
    assert not list(tmp_path.glob(".run.attempt*")) and not list(tmp_path.glob(".run.replaced*"))


def test_a_run_with_a_truncated_file_is_done_again(configure, tmp_path):
    folder = tmp_path / "run"
    training.run(configure(folder=folder))
    before = figures(folder)
    timed = ("metrics.json", "history.csv")  # hold the seconds it took
    for name in (*timed, "split.json", "predictions.csv", "embeddings.npy"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: min(len(content) // 2, 200)])
        training.run(configure("resume=true", folder=folder))
        assert figures(folder) == before
        assert len((folder / name).read_bytes()) > 200
        assert (folder / name).read_bytes() == content or name in timed


def test_one_process_holds_a_run_folder(configure, tmp_path):
    holder = training.RunFolder(tmp_path / "run")
    with holder.hold():
        with pytest.raises(SerError, match=rf"is in use by process {os.getpid()} on .* since"):
            training.run(configure(folder=tmp_path / "run"))
        assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
    training.run(configure(folder=tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.json").exists()


def test_ctrl_c_keeps_the_epochs_so_far(manifest, cache, tmp_path):
    words = [
        *TINY,
        "trainer.max_epochs=100000",  # it cannot end by itself
        "callbacks.early_stopping=null",
        f"paths.cache={cache}",
        "data=manifest",
        f"data.manifest={manifest}",
    ]
    folder = tmp_path / "run"

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
        return children.run_words(["train.py", *words, f"paths.run={folder}"], tmp_path)

    process = children.begin(folder, work)
    history = folder / "history.csv"
    while process.running and not (history.exists() and len(pd.read_csv(history)) >= 2):
        time.sleep(0.02)  # the checkpoint follows the table, so that of the first epoch is there
    os.kill(process.pid, signal.SIGINT)
    ended = process.wait()
    assert ended.code == 130, ended.shown
    assert "resume=true" in ended.shown
    assert "Traceback" not in ended.shown
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert not (folder / "metrics.json").exists()


def test_a_run_killed_while_drawing_draws_when_it_is_resumed(configure, few_figures, tmp_path, monkeypatch):
    """Its results are whole by then; the folder of figures appears with the last of them."""
    words = ["figures=true"]
    drawn = []

    def save_then_die(figure, path, formats):
        if len(drawn) == 2:
            raise KilledError
        drawn.append(save_figure(figure, path, formats))

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("ser.evaluation.figures.save_figure", save_then_die)
        training.run(configure(*words, folder=tmp_path / "run"))
    assert len(drawn) == 2
    assert not (tmp_path / "run" / "figures").exists()
    before = figures(tmp_path / "run")
    training.run(configure(*words, "resume=true", folder=tmp_path / "run"))
    assert (tmp_path / "run" / "figures" / "training.png").is_file()
    assert figures(tmp_path / "run") == before
