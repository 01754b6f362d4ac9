"""What TensorBoard, Weights & Biases and the csv logger keep of a run."""

import io
import json
import warnings

import pandas as pd
import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ser import training
from ser.errors import SerError
from ser.evaluation.figures import log_image
from ser.run.dashboards import check_login, shown_result, shown_settings

EACH_EPOCH = {"seconds", "learning_rate", "gradient_norm", "peak_memory_mb"}


def events(folder):
    """Scalars as tag -> [(step, value)], tags of images, and the row of the HParams table."""
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    scalars = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    row = HParamsPluginData.FromString(content).session_start_info.hparams
    return scalars, found.Tags()["images"], {key: row[key].string_value or row[key].number_value for key in row}


def test_tensorboard_shows_settings_result_and_every_epoch(configure, few_figures, few_probes, tmp_path):
    folder = tmp_path / "run"
    words = ["logger=tensorboard", "trainer.max_epochs=2", "optimizer.lr=2e-3", "leakage=true",
             "callbacks.history.confusion=true", "figures=[pdf]"]  # fmt: skip
    for _ in range(2):  # the second time beside the finished run, whose place it takes
        training.run(configure(*words, folder=folder))
        scalars, images, row = events(folder)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert row["model"] == "gru" and row["optimizer.lr"] == 2e-3 and row["fold"] == row["seed"] == 1
        assert not [
            key for key in row if key.startswith(("paths", "logger", "callbacks", "hydra")) or "_target_" in key
        ]
        for part in ("validation", "test"):
            for name, key in (("UAR", "uar"), ("WA", "wa"), ("macro F1", "macro_f1")):
                assert scalars[f"result/{part} {name}"][0][1] == pytest.approx(metrics[part][key])
        assert "result/probe: speaker named" in scalars and "hp_metric" not in scalars
        assert not [tag for tag in scalars if tag.startswith("test/")]
        assert all(len(scalars[tag]) == 2 for tag in EACH_EPOCH | {"alpha", "train/emotion_loss", "val/uar"})
        assert {"figures/validation_confusion", "figures/confusion"} <= set(images)
        assert "test/uar" in pd.read_csv(folder / "history.csv")
        assert not [path for path in tmp_path.glob(".run.*") if path.is_dir()]


def test_wandb_summarises_the_chosen_epoch_not_the_last(configure, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    finish, kept = wandb.finish, []

    def look(**status):
        kept.append((wandb.run.name, dict(wandb.run.summary), status))
        finish(**status)

    monkeypatch.setattr(wandb, "finish", look)
    words = ["logger=wandb", "+logger.wandb.offline=true", "adversarial=none", "variant=mine"]
    training.run(configure(*words))
    name, summary, status = kept[0]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {key: summary[key] for key in summary if key.startswith("result/")} == shown_result(metrics, None)
    assert set(summary) >= EACH_EPOCH and not [key for key in summary if key.startswith("test/")]
    assert "alpha" not in summary and "train/emotion_loss" not in summary  # without an adversary
    assert (name, status) == ("mine fold 1 seed 1", {"exit_code": 0})

    # The runs of a sweep share a process, and a failed one must not take in the next.
    with monkeypatch.context() as patch, pytest.raises(SerError, match="failed here"):
        patch.setattr(training, "show_scores", failing)
        training.run(configure(*words, "seed=2", folder=tmp_path / "failed"))
    training.run(configure(*words, "seed=3", folder=tmp_path / "next"))
    assert [name for name, *_ in kept] == [f"mine fold 1 seed {seed}" for seed in (1, 2, 3)]
    assert kept[1][2] == {"exit_code": 1} and wandb.run is None
    assert all(len(list(tmp_path.glob(f"{run}/wandb/offline-run-*"))) == 1 for run in ("run", "failed", "next"))


def test_a_logger_that_is_not_installed_names_the_extra(configure, monkeypatch):
    monkeypatch.setattr("ser.run.trainer.find_spec", lambda name: None)
    with pytest.raises(
        SerError, match=r"^logger=wandb needs wandb, which is not installed; pip install 'ser-lab\[wandb\]'\.$"
    ):
        training.run(configure("logger=wandb"))


@pytest.mark.parametrize("key", ["", "short", "0123456789" * 4])
def test_wandb_is_refused_before_extraction_where_it_cannot_log_in(configure, tmp_path, monkeypatch, key):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)  # which Lightning sets for offline runs
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    wandb.teardown()  # its settings are read once
    cfg = configure("logger=wandb", "data.manifest=nowhere.csv")  # refused later
    try:
        with pytest.raises(SerError, match=r"logger=wandb cannot log in.*offline=true"):
            training.run(cfg)
        assert not list(tmp_path.rglob("run/*"))
        training.run(configure())
        training.run(configure("logger=wandb", "resume=true"))  # finished: nothing is to be logged
        for mode in ({"offline": True}, {"mode": "disabled"}):
            check_login({"wandb": {"_target_": "lightning.pytorch.loggers.WandbLogger", **mode}})
    finally:
        wandb.teardown()


def failing(*arguments):
    raise SerError("failed here")


def test_the_csv_logger_keeps_the_epochs_before_a_resume(configure, tmp_path, monkeypatch):
    words = ["logger=csv", "trainer.max_epochs=3"]

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.RunFolder, "finish", killed)
        training.run(configure(*words))
    before = pd.read_csv(tmp_path / "run" / "csv" / "metrics.csv")
    training.run(configure(*words, "resume=true"))
    after = pd.read_csv(tmp_path / "run" / "csv" / "metrics.csv")
    assert not [column for column in after if column.startswith("test/")]
    for column in ("val/uar", "train/loss", "learning_rate"):
        kept, old = (table.dropna(subset=[column]).set_index("step")[column] for table in (after, before))
        assert list(kept.index) == list(old.index) and kept.to_numpy() == pytest.approx(old.to_numpy())


def test_only_what_differs_from_the_defaults_is_shown(configure):
    cfg = configure("optimizer=sgd", "l2_reg=1e-5", "logger=none", "variant=mine", "figures=true", tiny=False)
    shown = shown_settings(cfg, HydraConfig.get().runtime.choices)
    assert shown == {"variant": "mine", "fold": 1, "seed": 1, "data": "manifest", "optimizer": "sgd", "l2_reg": 1e-5}


TQDM = "callbacks.progress_bar={_target_: lightning.pytorch.callbacks.TQDMProgressBar}"


@pytest.mark.parametrize(("words", "terminal", "bars"), [
    (["callbacks.progress_bar=null"], "1", 0),
    (["trainer.enable_progress_bar=false", "callbacks=default"], "1", 0),
    ([TQDM], "1", 1),
    ([TQDM], "0", 0),  # a log file gets no bars
])  # fmt: skip
def test_a_bar_is_shown_only_on_a_terminal_where_one_is_configured(configure, monkeypatch, words, terminal, bars):
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    trainer = training.build_trainer(configure("logger=none", *words, tiny=False), 1)
    assert isinstance(trainer.progress_bar_callback, TQDMProgressBar if bars else type(None))


def test_a_run_without_a_logger_gives_no_advice_about_loggers(configure):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        training.run(configure("logger=none"))
    assert not [one for one in shown if "logger" in str(one.message)]


def test_a_large_figure_is_shown_smaller(tmp_path):
    file = io.BytesIO()
    Image.new("RGBA", (4000, 1000)).save(file, "png")
    logger = TensorBoardLogger(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        given = []
        patch.setattr(logger.experiment, "add_image", lambda name, image, *rest, **settings: given.append(image.shape))
        log_image("confusion", file.getvalue(), [logger])
    assert given == [(500, 2000, 4)]
