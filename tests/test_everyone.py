"""Training on everyone: as long as cross-validation says, with its score, and nothing else."""

import json
import math
import shutil
import statistics
from pathlib import Path

import pandas as pd
import pytest
from fake_corpora import write_manifest
from small_runs import TINY

from ser.cli import main
from ser.config import compose_config
from ser.demo.plots import card_panel
from ser.demo.recognition import ModelShelf
from ser.errors import SerError
from ser.evaluation.runs import load_run, pooled, scan_runs
from ser.evaluation.scores import scores
from ser.inference.recognizer import Recognizer
from ser.io import read_checkpoint_file
from ser.training import run

CHOICES = {"features": "logmel", "model": "gru"}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("everyone")
    manifest = write_manifest(folder, utterances_per_speaker_and_emotion=1, seconds=0.3, session=True)
    return ["data=manifest", f"data.manifest={manifest}", f"paths.cache={folder / 'cache'}",
            f"paths.outputs={folder / 'outputs'}", "name=runs", *TINY, "trainer.max_epochs=4"]  # fmt: skip


def train(words, *more):
    overrides = [*words, *more]
    cfg = compose_config(overrides)
    return run(cfg, CHOICES, overrides), cfg


@pytest.fixture(scope="module")
def sweep(words):
    """The folder of a variant's runs on all folds."""
    cfg = compose_config([*words, "variant=tiny"])
    for fold in range(1, 4):
        train(words, "variant=tiny", f"fold={fold}")
    return f"{cfg.paths.outputs}/runs/tiny"


@pytest.fixture(scope="module")
def final(words, sweep):
    found, cfg = train(words, "protocol=everyone", f"epochs_from={sweep}", "variant=final")
    return found, cfg.paths.run


def read(folder, name="metrics"):
    return json.loads((Path(folder) / f"{name}.json").read_text())


def weights(folder):
    return read_checkpoint_file(Path(folder) / "checkpoints" / "best.ckpt")["state_dict"]


def shown(capsys):
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_trains_all_speakers_for_the_median_of_the_best_epochs(sweep, final):
    uar, folder = final
    runs, metrics, split = scan_runs(sweep)[0], read(folder), read(folder, "split")
    wanted = statistics.median(found.metrics["best_epoch"] + 1 for found in runs)
    assert metrics["epochs"] == metrics["best_epoch"] + 1 == math.floor(wanted + 0.5)
    assert metrics["epoch_chosen_by"] == "last"
    assert len(pd.read_csv(Path(folder) / "history.csv")) == metrics["epochs"]
    assert len(split["parts"]["train"]["speakers"]) == 6
    assert not split["parts"]["validation"]["ids"] and not split["parts"]["test"]["ids"]
    assert not {"test", "validation"} & metrics.keys()
    assert not (Path(folder) / "predictions.csv").exists()
    assert uar == metrics["cross_validation"]["uar"] == scores(pooled(runs))["uar"]


def test_score_travels_with_the_model(final, tmp_path, capsys):
    _, folder = final
    record = read(folder)["cross_validation"]
    config = Recognizer.from_checkpoint(folder).config
    assert config.cross_validation == {key: value for key, value in record.items() if key != "folder"}
    assert f"cross-validated UAR {100 * record['uar']:.1f}%" in config.notes[0]
    audio = next(Path(read(folder, "run")["config"]["data"]["manifest"]).parent.rglob("*.wav"))
    assert main(["predict", str(audio), "--checkpoint", folder, "--no-gate"]) == 0
    assert config.notes[0] in shown(capsys)
    assert main(["export", "--checkpoint", folder, "--format", "hub", "--output", str(tmp_path / "hub")]) == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "### Cross-validated on unseen speakers" in card
    assert f"| UAR | {100 * record['uar']:.1f} [" in card
    assert "| train | 24 |" in card and "| test |" not in card
    assert Recognizer.from_checkpoint(tmp_path / "hub").config.cross_validation == config.cross_validation


def test_page_shows_the_cross_validated_score(final):
    _, folder = final
    shelf = ModelShelf([folder])
    card = card_panel(shelf.open(shelf.names[0]), "en", "gate")
    assert f"{read(folder)['cross_validation']['uar']:.1%} (" in card
    assert "Trained on every speaker" in card
    assert "Fold held out" not in card
    assert "See the licence of the corpus" in card  # of one that the program does not know
    assert "None" not in card and "finetune" not in card


def test_finished_run_is_not_repeated_and_an_interrupted_one_ends_the_same(words, sweep, final, capsys):
    _, folder = final
    again = [*words, "protocol=everyone", f"epochs_from={sweep}", "resume=true"]
    before = read(folder)
    assert train(again, "variant=final")[0] == before["cross_validation"]["uar"]
    assert "cannot be tested on them" in shown(capsys)
    assert read(folder) == before
    copy = Path(folder).parents[2] / "copy" / "fold1" / "seed1"
    shutil.copytree(folder, copy)
    (copy / "metrics.json").unlink()
    train(again, "variant=copy")
    assert read(copy)["epochs"] == before["epochs"]
    assert all(value.equal(weights(folder)[name]) for name, value in weights(copy).items())


def test_given_epochs_have_no_score(words, capsys):
    uar, cfg = train(words, "protocol=everyone", "trainer.max_epochs=2", "variant=given")
    assert math.isnan(uar)
    assert read(cfg.paths.run)["cross_validation"] is None
    assert read(cfg.paths.run)["epochs"] == 2
    assert "was never measured" in shown(capsys)


def test_logistic_regression_takes_the_median_of_the_chosen_c(words):
    own = [word for word in words if not word.startswith("model")]
    own += ["model=statistics_logistic", "adversarial=none", "variant=logistic"]
    for fold in range(1, 4):
        train(own, f"fold={fold}")
    sweep = Path(compose_config(own).paths.run).parents[1]
    chosen = [read(file.parent)["regularization_c"] for file in sweep.rglob("metrics.json")]
    _, cfg = train(own, "variant=all", "protocol=everyone", f"epochs_from={sweep}")
    assert read(cfg.paths.run)["regularization_c"] == statistics.median_low(chosen)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["epochs_from={sweep}"], "only protocol=everyone takes its epochs"),
        (["protocol=everyone", "epochs_from={sweep}", "lr_schedule=plateau"], "lr_schedule=plateau follows"),
        (["protocol=everyone", "epochs_from={sweep}", "l2_reg=1e-5"], "l2_reg = 0.0, now 1e-05"),
        (["protocol=everyone", "epochs_from={sweep}/fold1"], "has 1 of 3 runs (missing: fold 2 seed 1, fold 3 seed 1)"),
        (["protocol=everyone", "epochs_from=/nowhere"], "/nowhere is no folder, expected that of one variant"),
    ],
)
def test_refused_in_one_line(words, sweep, more, message):
    with pytest.raises(SerError) as refused:
        train(words, "variant=refused", *(word.format(sweep=sweep) for word in more))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_something_must_say_how_many_epochs(words):
    with pytest.raises(SerError, match="give epochs_from=FOLDER"):
        train([word for word in words if "max_epochs" not in word], "protocol=everyone")


def test_commands_on_results_name_the_sweep(sweep, final, capsys):
    _, folder = final
    with pytest.raises(SerError, match="trained on all speakers"):
        load_run(folder)
    for command in ("report", "probe", "figures", "reproduce", "enrol"):
        assert main([command, folder]) == 1
        assert sweep in shown(capsys)
    assert main(["compare", sweep, folder]) == 1
    assert {found.variant for found in scan_runs(Path(folder).parents[2])[0]} >= {"tiny"}
    assert "final" not in {found.variant for found in scan_runs(Path(folder).parents[2])[0]}
