import functools
import json
import logging
import re
import types

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from ser import training
from ser.adversary import SpeakerClassifier
from ser.config import instantiate
from ser.data.augmentation import Augmentation
from ser.data.datamodule import Batch
from ser.evaluation.scores import scores
from ser.extraction.frames import extract
from ser.losses import CrossEntropy, FocalLoss, l2_norms
from ser.models.network import build_network
from ser.models.recurrent import EnhancedGRU
from ser.module import EmotionModule, emotion_metrics

DIM, SPEAKERS = 6, 3
ENHANCED = ["model=enhanced_gru", "model.hidden_size=8", "augmentation=none"]
HISTORY = [
    "epoch", "step", "seconds", "learning_rate", "gradient_norm", "peak_memory_mb", "alpha", "train/loss",
    "train/emotion_loss", "train/speaker_loss", "train/l2", "train/wa", "train/uar", "train/f1",
    "train/speaker_accuracy", "val/loss", "val/wa", "val/uar", "val/f1", "test/wa", "test/uar",
]  # fmt: skip


@pytest.fixture
def make_module():
    def make(loss=None, weight=0.05, **settings):
        torch.manual_seed(0)
        network = EnhancedGRU(DIM, 4, hidden_size=4, layers=2, heads=2, dropout=0.0)
        adversary = SpeakerClassifier(network.pooled_size, SPEAKERS, 4, hidden_size=8, dropout=0.0, weight=weight)
        optimizer = functools.partial(torch.optim.SGD, lr=0.1)
        settings = {"augmentation": Augmentation()} | settings
        return EmotionModule(network, adversary, loss or CrossEntropy(), optimizer, "abcd", **settings)

    return make


@pytest.fixture
def batch():
    torch.manual_seed(1)
    lengths = torch.tensor([9, 7, 4, 3])
    frames = torch.randn(4, 9, DIM) * (torch.arange(9) < lengths[:, None])[..., None]
    speaker = torch.tensor([2, 0, 1, 0])
    return Batch(frames, lengths, torch.tensor([0, 3, 1, 0]), speaker, torch.zeros(4, dtype=torch.int64), list("wxyz"))


def gradients(module, batch, alpha):
    module.zero_grad()
    module.adversary.alpha.fill_(alpha)
    module.training_step(batch, 0).backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_loss_is_the_sum_of_its_parts(make_module, batch):
    module = make_module(weight=0.3, l2_reg=0.01)
    output = module(batch.frames, batch.lengths)
    expected = F.cross_entropy(output.emotion_logits, batch.emotion)
    expected = expected + 0.3 * F.cross_entropy(module.adversary.classifier(output.pooled), batch.speaker)
    expected = expected + 0.01 * (l2_norms(module.network) + l2_norms(module.adversary))
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_adversary_pushes_the_encoder_the_other_way(make_module, batch):
    """Reversed: what lies below the head climbs the speaker loss that the head descends."""
    module = make_module(weight=0.3)
    off, on = gradients(module, batch, 0.0), gradients(module, batch, 1.0)
    module.zero_grad()
    pooled = module(batch.frames, batch.lengths).pooled
    (0.3 * F.cross_entropy(module.adversary.classifier(pooled), batch.speaker)).backward()
    for name, parameter in module.named_parameters():
        speaker = parameter.grad
        if name.startswith("adversary"):
            torch.testing.assert_close(on[name], speaker)
            torch.testing.assert_close(off[name], speaker)
        elif name.startswith("network.head"):
            torch.testing.assert_close(on[name], off[name])
        else:
            torch.testing.assert_close(on[name] - off[name], -speaker, rtol=1e-3, atol=1e-6)
    assert any((on[name] - off[name]).abs().max() > 1e-4 for name in on if name.startswith("network.layers"))


def test_without_adversarial_weight_nothing_of_the_speaker_reaches_the_encoder(make_module, batch):
    module = make_module(weight=0.0)
    off, on = gradients(module, batch, 0.0), gradients(module, batch, 1.0)
    assert all(torch.equal(off[name], on[name]) for name in off)


def test_class_weights_and_focal_loss_reach_the_step(make_module, batch):
    weighted = CrossEntropy(class_weighting=True)
    weighted.fit_class_counts([4, 1, 2, 1])
    focal = FocalLoss(alpha=0.25, gamma=2.0)
    for loss in (weighted, focal):
        module = make_module(loss, weight=0.0)
        logits = module(batch.frames, batch.lengths).emotion_logits
        torch.testing.assert_close(module.training_step(batch, 0), loss(logits, batch.emotion))
    logits = make_module()(batch.frames, batch.lengths).emotion_logits
    each = F.cross_entropy(logits, batch.emotion, reduction="none")
    weights = torch.tensor([0.5, 2.0, 1.0, 2.0])[batch.emotion]
    torch.testing.assert_close(weighted(logits, batch.emotion), (weights * each).sum() / weights.sum())


@pytest.mark.parametrize("loss", [CrossEntropy(label_smoothing=0.1), FocalLoss()])
def test_mixup_trains_with_any_loss(make_module, batch, loss):
    module = make_module(loss, augmentation=Augmentation(mixup_alpha=0.2))
    grown = gradients(module, batch, 0.5)
    assert all(gradient.isfinite().all() for gradient in grown.values())


def test_metrics_equal_those_of_the_tables():
    """Also where an emotion was predicted that does not occur."""
    truth, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 3, 2])
    metrics = emotion_metrics(4, "")
    metrics.update(F.one_hot(predicted[:3], 4).float(), truth[:3])
    metrics.update(F.one_hot(predicted[3:], 4).float(), truth[3:])
    names = np.array(list("abcd"))
    table = pd.DataFrame(
        {"id": list("uvwxyz"), "emotion": names[truth], "predicted": names[predicted]}
        | {f"p_{name}": 0.25 for name in names}
    )
    expected = scores(table)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx({name: expected[key] for name, key in
                                   (("wa", "wa"), ("uar", "uar"), ("f1", "macro_f1"))})  # fmt: skip


def test_history_of_a_run(configure, tmp_path):
    training.run(configure(*ENHANCED, "trainer.max_epochs=3", "l2_reg=1e-3", "adversarial_weight=0.3",
                           "alpha_schedule=constant", "alpha_schedule.max_alpha=0.5"))  # fmt: skip
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert list(history) == HISTORY
    assert history["epoch"].tolist() == [0, 1, 2]
    total = history["train/emotion_loss"] + 0.3 * history["train/speaker_loss"] + history["train/l2"]
    assert np.allclose(history["train/loss"], total, rtol=1e-5)
    assert (history["alpha"] == 0.5).all() and (history["gradient_norm"] > 0).all()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best = history.iloc[metrics["best_epoch"]]
    assert best["val/uar"] == history["val/uar"].max() and metrics["epoch_chosen_by"] == "val/uar"
    for ours, theirs in (("val/uar", "uar"), ("val/wa", "wa"), ("val/f1", "macro_f1")):
        assert best[ours] == pytest.approx(metrics["validation"][theirs], abs=1e-6)


def test_many_epochs_take_few_lines_of_the_screen(configure, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, logger="ser.callbacks"):
        training.run(configure("trainer.max_epochs=50", "callbacks.early_stopping=null", "test_each_epoch=false",
                               "+trainer.limit_train_batches=1"))  # fmt: skip
    said = [record for record in caplog.records if record.getMessage().startswith("epoch ")]
    shown = [int(record.getMessage().split()[1].rstrip(":")) for record in said if record.levelno == logging.INFO]
    assert shown == [*range(0, 50, 3), 49]
    assert {record.getMessage().split(":")[0] for record in said} == {f"epoch {number}" for number in range(50)}
    uar = pd.read_csv(tmp_path / "run" / "history.csv")[["train/uar", "val/uar"]].iloc[-1]  # fractions; lines: percent
    assert re.findall(r"UAR (\S+?)[, ]", said[-1].getMessage()) == [f"{100 * value:.1f}%" for value in uar]


def test_the_progress_bar_shows_uar_in_percent(configure, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    trainer = training.build_trainer(configure("callbacks=default", "logger=none", tiny=False), 1)
    monkeypatch.setattr(type(trainer), "progress_bar_metrics", {"val/uar": 0.6804, "val/loss": 0.5})
    monkeypatch.setattr(type(trainer), "loggers", [types.SimpleNamespace(version="a1b2c3d4")])  # as W&B's
    bar = trainer.progress_bar_callback
    assert bar.get_metrics(trainer, None) == {"val/uar": "68.0%", "val/loss": 0.5}


@pytest.mark.parametrize("words", [
    [*ENHANCED, "fold=2"],
    ["normalization=none", "batches.max_seconds=0.2", "adversarial=none"],
])  # fmt: skip
def test_checkpoint_alone_repeats_the_predictions(configure, cache, tmp_path, words):
    cfg = configure(*words)
    training.run(cfg)
    folder = tmp_path / "run"
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    config = checkpoint["config"]
    network = build_network(config["network"]).eval()
    state = {name.removeprefix("network."): value for name, value in checkpoint["state_dict"].items()
             if name.startswith("network.")}  # fmt: skip
    network.load_state_dict(state)
    encoder = instantiate(cfg, "features")
    frames = extract(instantiate(cfg, "data"), encoder, cache).cache
    longest = config["max_seconds"] and round(config["max_seconds"] * encoder.frame_rate)
    table = pd.read_csv(folder / "predictions.csv")
    assert len(table) and [f"p_{name}" for name in config["emotions"]] == list(table)[7:]
    for _, row in table.iterrows():
        utterance = torch.tensor(frames.read(row["id"])[:longest]).float()
        utterance = torch.stack([group.mean(0) for group in utterance.split(encoder.average)])
        utterance = (utterance - config["normalization"]["mean"]) / config["normalization"]["std"]
        with torch.no_grad():
            found = network(utterance[None], torch.tensor([len(utterance)])).emotion_logits.softmax(-1)[0]
        assert np.allclose(found.numpy(), row.iloc[7:].to_numpy(float), atol=1e-5)
    assert config["format"] == 2 and config["corpus"] == "manifest" and config["sample_rate"] == 16000


def test_class_weights_come_from_the_training_part(configure, tmp_path, monkeypatch):
    built = []
    build = training.build_module
    monkeypatch.setattr(training, "build_module", lambda *given: built.append(build(*given)) or built[-1])
    training.run(configure("loss=focal", "loss.class_weighting=true"))
    parts = json.loads((tmp_path / "run" / "split.json").read_text())["parts"]
    counts = torch.tensor(list(parts["train"]["emotions"].values())).float()
    torch.testing.assert_close(built[0].emotion_loss.class_weights, counts.sum() / (len(counts) * counts))


def test_accumulated_batches_make_one_step(configure, tmp_path):
    words = ["batches.batch_size=4", "trainer.max_epochs=2"]
    steps = {}
    for count in (1, 3):
        folder = tmp_path / str(count)
        training.run(configure(*words, f"trainer.accumulate_grad_batches={count}", folder=folder))
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        schedule = next(value for name, value in state["callbacks"].items() if "Rate" in name or "Restarts" in name)
        assert schedule["total_steps"] == state["global_step"]
        steps[count] = state["global_step"]
    assert steps[3] == 2 * -(-(steps[1] // 2) // 3)


def test_parameters_without_gradient_are_named(configure, caplog):
    """The reference network computes its enhancement and throws it away."""
    with caplog.at_level(logging.WARNING):
        training.run(configure("model=enhanced_gru_reference", "model.hidden_size=8", "+trainer.limit_train_batches=1"))
    (warning,) = [record.getMessage() for record in caplog.records if "no gradient" in record.getMessage()]
    assert "network.enhance.0.weight" in warning and "network.head" not in warning
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        training.run(configure("+trainer.limit_train_batches=1"))
        words = ["adversarial=gradient_reversal", "adversarial_weight=0"]  # nothing for the adversary to learn
        training.run(configure(*words, "+trainer.limit_train_batches=1"))
    assert not [record for record in caplog.records if "no gradient" in record.getMessage()]


def test_only_trained_parameters_reach_the_optimizer(make_module):
    module = make_module()
    module.network.project.requires_grad_(False)
    given = {id(parameter) for group in module.configure_optimizers().param_groups for parameter in group["params"]}
    expected = {id(p) for name, p in module.named_parameters() if not name.startswith("network.project")}
    assert given == expected


def test_dropout_and_augmentation_follow_seed_and_place(make_module, batch, monkeypatch):
    module = make_module(seed=5)
    drawn = {}
    for epoch, index in ((0, 0), (0, 1), (1, 0), (0, 0)):
        monkeypatch.setattr(lightning.LightningModule, "current_epoch", epoch)
        module.on_train_batch_start(batch, index)
        number = torch.rand(1).item()
        assert drawn.setdefault((epoch, index), number) == number
    assert len(set(drawn.values())) == 3
