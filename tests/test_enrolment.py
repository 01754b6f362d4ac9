"""Enrolment uses other utterances of the speaker, never the tested one; learning curves take sizes from the splits."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fake_runs import write_run

from ser import training
from ser.cli import main
from ser.data.normalization import FrameStatistics, RunningStatistics, mean_and_std, prior_sums
from ser.evaluation.figures.training import draw_curve, learning_curve
from ser.evaluation.runs import WARNINGS, find_runs
from ser.trained.enrolment import _sums_of_others


def test_an_utterance_gets_k_others_of_its_own_speaker():
    speakers = np.array([0, 1, 0, 0, 1, 1, 0, 1, 0])
    sums = torch.eye(len(speakers), dtype=torch.float64)  # says whose sums were added
    for count in range(4):
        chosen = _sums_of_others(sums, speakers, count, np.random.default_rng(count)).numpy()
        assert (chosen.sum(1) == count).all()
        assert set(np.unique(chosen)) <= {0.0, 1.0}
        assert (np.diag(chosen) == 0).all()
        assert (speakers[:, None] == speakers)[chosen == 1].all()


def test_the_statistics_are_those_of_prediction():
    training_part = FrameStatistics(torch.randn(3), torch.rand(3) + 0.5, "training")
    frames = 2 + torch.randn(40, 3)
    running = RunningStatistics(training_part, 50, 2.0, "speaker")
    running.update(frames)
    count, total, square = prior_sums(training_part, 100)
    double = frames.double()
    mean, std = mean_and_std(count + 40, total + double.sum(0), square + double.square().sum(0))
    assert torch.equal(running.current.mean, mean) and torch.equal(running.current.std, std)
    whole = torch.cat([training_part.mean + training_part.std * torch.randn(100_000, 3), *[frames] * 1000])
    assert torch.allclose(mean, whole.mean(0), atol=0.02) and torch.allclose(std, whole.std(0), atol=0.02)


@pytest.fixture
def run(configure, tmp_path):
    def carry_out(experiment):
        words = [f"experiment={experiment}", "callbacks.progress_bar=null", "logger=none", "leakage=false"]
        training.run(configure(*words, "figures=false", tiny=False))
        return tmp_path / "run"

    return carry_out


def test_the_command_measures_draws_and_writes(run, capsys):
    folder = run("statistics_logistic_speaker")
    capsys.readouterr()
    assert main(["enrol", str(folder), "--shrinkage", "0.000001", "--draws", "2"]) == 0
    table = pd.read_csv(folder / "enrolment.csv")
    assert table["k"].tolist() == ["0", "1", "2", "4", "all", "own run"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert table["uar"].iloc[-1] == pytest.approx(metrics["test"]["uar"])
    assert (folder / "enrolment.png").stat().st_size > 10_000
    assert "against k = 0" in capsys.readouterr().out


def test_a_model_that_expects_no_speaker_statistics_is_refused(run, capsys):
    assert main(["enrol", str(run("statistics_logistic"))]) == 1
    assert "normalization=speaker" in " ".join(capsys.readouterr().err.split())


def test_a_curve_joins_the_sizes_of_a_variant(tmp_path, capsys):
    for variant in ("gru", "gru,train_speakers=4", "enhanced_gru,l2_reg=1", "enhanced_gru,l2_reg=1,train_fraction=0.5"):
        for fold in (1, 2):
            write_run(tmp_path, variant, fold)
    assert main(["curve", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "curve.csv")
    assert table["variant"].tolist() == ["enhanced_gru,l2_reg=1"] * 2 + ["gru"] * 2
    assert (table["runs"] == 2).all() and (table["speakers"] == 4).all() and (table["utterances"] == 96).all()
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert "enhanced_gru, l2_reg=1" in capsys.readouterr().out
    write_run(tmp_path, "speaker", transductive=True)
    assert main(["curve", str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "curve.csv").set_index("variant")["transductive"]["speaker"]
    assert "speaker (transductive)" in capsys.readouterr().out
    figure = draw_curve(learning_curve(find_runs(tmp_path)))
    assert all(float(mark).is_integer() for axes in figure.axes for mark in axes.get_xticks())  # of whole speakers
    assert WARNINGS["transductive"] + " (speaker)" in " ".join(" ".join(t.get_text() for t in figure.texts).split())
    write_run(tmp_path / "alone", "gru")
    assert main(["curve", str(tmp_path / "alone")]) == 1
    assert "train_speakers=4,8,12" in " ".join(capsys.readouterr().err.split())
