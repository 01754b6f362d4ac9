"""Networks without recurrence: the fitted one is scikit-learn's answer, and runs like every other network."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ser import training
from ser.cli import main
from ser.config.identity import depends_on_seed
from ser.errors import SerError
from ser.inference.files import predict_files
from ser.inference.recognizer import Recognizer
from ser.models.statistics import StatisticsLogistic

D = 6


def utterances(number, emotions=3, seed=0):
    """Frames (n, L, D) whose mean and spread tell the emotion, lengths (n,) and emotion (n,)."""
    generator = torch.Generator().manual_seed(seed)
    emotion = torch.arange(number) % emotions
    lengths = torch.randint(3, 12, (number,), generator=generator)
    frames = torch.randn(number, 11, D, generator=generator) * (1 + emotion[:, None, None] / 2)
    return frames + emotion[:, None, None] * torch.linspace(-0.5, 0.5, D), lengths, emotion


def batches(frames, lengths, emotion, size=7):
    return [(frames[n : n + size], lengths[n : n + size], emotion[n : n + size]) for n in range(0, len(frames), size)]


def statistics(frames, lengths):
    own = [frame[:length].double().numpy() for frame, length in zip(frames, lengths, strict=True)]
    return np.stack([np.concatenate([frame.mean(0), np.sqrt(frame.var(0) + 1e-5)]) for frame in own])


@pytest.mark.parametrize("emotions", [2, 3])
def test_it_answers_as_scikit_learn_does(emotions):
    train, unseen = utterances(60, emotions), utterances(20, emotions, seed=1)
    network = StatisticsLogistic(D, emotions, grid=[0.1])
    assert network.fit(batches(*train), batches(*unseen)) == {"regularization_c": 0.1}
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(statistics(*train[:2]), train[2])
    with torch.no_grad():
        found = network(*unseen[:2])
    assert found.emotion_logits.softmax(-1).numpy() == pytest.approx(
        expected.predict_proba(statistics(*unseen[:2])), abs=1e-3
    )
    assert found.pooled.numpy() == pytest.approx(expected[0].transform(statistics(*unseen[:2])), abs=1e-3)


def test_validation_chooses_c():
    train, unseen = utterances(60), utterances(60, seed=1)
    grid = [1.0, 1e-9, 0.1]
    network = StatisticsLogistic(D, 3, grid=grid)
    chosen = network.fit(batches(*train), batches(*unseen))["regularization_c"]
    alone = {}
    for value in grid:
        one = StatisticsLogistic(D, 3, grid=[value])
        one.fit(batches(*train), batches(*unseen))
        with torch.no_grad():
            logits = one(*unseen[:2]).emotion_logits
        alone[value] = float(torch.nn.functional.cross_entropy(logits, unseen[2]))
    assert len(set(alone.values())) == len(grid)
    assert chosen == min(grid, key=alone.__getitem__)


def test_an_emotion_without_training_utterances_is_never_predicted():
    frames, lengths, emotion = utterances(40, emotions=2)
    network = StatisticsLogistic(D, 4, grid=[0.1])
    network.fit(batches(frames, lengths, emotion + 2), batches(frames, lengths, emotion + 2))
    with torch.no_grad():
        probabilities = network(frames, lengths).emotion_logits.softmax(-1)
    assert probabilities[:, :2].max() < 1e-6
    assert (probabilities.argmax(-1) == emotion + 2).float().mean() > 0.8


def test_a_grid_that_cannot_be_fitted_is_one_line():
    for grid in ([], [0.1, 0], [float("nan")]):
        with pytest.raises(SerError, match=r"model\.grid"):
            StatisticsLogistic(D, 3, grid=grid)


@pytest.fixture
def run(configure, tmp_path):
    """Carry out a run of an experiment on the small corpus; the metrics it wrote."""

    def carry_out(experiment, *overrides):
        cfg = configure(f"experiment={experiment}", "callbacks.progress_bar=null", "logger=none", "leakage=false",
                        "figures=false", *overrides, tiny=False)  # fmt: skip
        training.run(cfg)
        return json.loads((tmp_path / "run" / "metrics.json").read_text())

    return carry_out


def answers(table):
    return table[sorted(name for name in table if name.startswith("p_"))].to_numpy()


def test_a_fitted_run_is_a_run_like_any_other(run, few_sounds, tmp_path, manifest):
    folder = tmp_path / "run"
    metrics = run("statistics_logistic", "logger=csv")
    assert (metrics["epochs"], metrics["parameters"]) == (0, 4 * (2 * 80 + 1))
    table = pd.read_csv(folder / "predictions.csv")
    pooled = np.load(folder / "train_embeddings.npy")
    assert pooled.mean(0) == pytest.approx(0, abs=1e-3) and pooled.shape[1] == 2 * 80
    logged = pd.read_csv(folder / "csv" / "metrics.csv")
    assert logged["val/uar"].iloc[0] == pytest.approx(metrics["validation"]["uar"], abs=1e-6)

    audio = [next(manifest.parent.rglob(f"{name}.wav")) for name in table["id"]]
    assert main(["export", "--checkpoint", str(folder)]) == 0
    for model in (folder, folder / "model.onnx"):
        found = predict_files(Recognizer.from_checkpoint(model), audio).table
        assert answers(found) == pytest.approx(answers(table), abs=1e-4)

    before = (folder / "predictions.csv").stat().st_mtime_ns
    run("statistics_logistic", "resume=true")
    assert (folder / "predictions.csv").stat().st_mtime_ns == before


def test_adversary_and_augmentation_leave_a_fitted_network_as_it_is(run, tmp_path):
    plain = run("statistics_logistic")
    other = run("statistics_logistic", "adversarial=gradient_reversal", "augmentation=strong", "optimizer.lr=0.1")
    assert other["test"] == plain["test"]
    content = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["config"]["adversary"] == {}
    assert not any(name.startswith("adversary") for name in content["state_dict"])


def test_another_seed_changes_no_bit_of_a_fitted_run(run, few_probes, tmp_path):
    kept = []
    for seed in (1, 2):
        assert run("statistics_logistic", f"seed={seed}", "leakage=true")["deterministic"] is True
        weights = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        names = ("predictions.csv", "embeddings.npy", "train_predictions.csv", "train_embeddings.npy", "leakage.json")
        files = [(tmp_path / "run" / name).read_bytes() for name in names]
        kept.append([*files, {key: value.numpy().tobytes() for key, value in weights.items()}])
    assert kept[0] == kept[1]


@pytest.mark.parametrize(("words", "depends"), [
    (["experiment=statistics_logistic"], False),
    (["experiment=statistics_logistic_speaker", "protocol=speaker"], False),
    (["experiment=statistics_logistic", "protocol=random"], True),
    (["experiment=statistics_logistic", "train_fraction=0.5"], True),
    (["experiment=statistics_logistic", "variant=mine-${seed}"], True),
    (["experiment=statistics_logistic", "features=hubert_base", "features.finetune=1"], True),
    (["experiment=recommended"], True),
])  # fmt: skip
def test_what_a_seed_may_change(configure, words, depends):
    assert depends_on_seed(configure(*words, tiny=False)) is depends


def test_the_layer_per_frame_trains(run):
    metrics = run("recommended", "model.hidden_size=8", "trainer.max_epochs=2")
    assert metrics["epochs"] == 2
    assert metrics["parameters"] == 8 * 81 + 4 * 17


def test_speaker_statistics_are_declared(run):
    assert run("statistics_logistic_speaker")["transductive"] is True
    assert run("statistics_logistic")["transductive"] is False
