"""Adversaries: gradients, learning rates, small batches, and what a checkpoint says of an erasure."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from ser import training
from ser.adversary import (
    Adversary,
    AdversaryOutput,
    ConfusionCritics,
    FlatCritics,
    KernelIndependence,
    ReversalCritics,
    SpeakerClassifier,
)
from ser.adversary.base import reverse_gradient
from ser.adversary.erasure import fit_erasure
from ser.config import instantiate
from ser.data.augmentation import Augmentation
from ser.errors import SerError
from ser.inference.checkpoint import read_checkpoint
from ser.losses import CrossEntropy
from ser.models.network import LinearErasure, build_network
from ser.models.recurrent import EnhancedGRU
from ser.module import EmotionModule

P, S = 5, 3
SPEAKER, EMOTION = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1])


class Erasing(Adversary):
    """Erases the first pooled value, as a concept-erasing method would erase the speakers' directions."""

    def __init__(self, pooled, speakers, emotions, *, weight=0.0):
        super().__init__(weight)

    def attach(self, network):
        network.erase = LinearErasure(network.pooled_size, rank=1)
        network.erase.read[0, 0] = network.erase.write[0, 0] = 1.0

    def forward(self, pooled, speaker, emotion):
        return AdversaryOutput(pooled.new_zeros(()), None)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_gradient_reversal(alpha):
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64)
    output = reverse_gradient(features, torch.tensor(alpha, dtype=torch.float64))
    assert torch.equal(output, features)
    (gradient,) = torch.autograd.grad((output * weight).sum(), features)
    torch.testing.assert_close(gradient, -alpha * weight)


def test_only_the_pooled_features_get_the_reversed_gradient():
    torch.manual_seed(0)
    adversary = SpeakerClassifier(P, S, 2, hidden_size=32, dropout=0.0)
    below, above = [], []
    for alpha in (0.0, 1.0, -1.0):  # -1 undoes the reversal
        adversary.zero_grad()
        adversary.alpha.fill_(alpha)
        torch.manual_seed(0)
        pooled = torch.randn(4, P, requires_grad=True)
        adversary(pooled, SPEAKER, EMOTION).loss.backward()
        below.append(pooled.grad)
        above.append(adversary.classifier[0].weight.grad.clone())
    assert (below[0] == 0).all() and (below[1] != 0).any()
    torch.testing.assert_close(below[1], -below[2])
    assert torch.equal(above[0], above[1])


def test_a_batch_of_one_is_scaled_by_the_running_statistics():
    adversary = SpeakerClassifier(P, S, 2, hidden_size=8, normalize=True)
    before = {name: value.clone() for name, value in adversary.norm.state_dict().items()}
    loss = adversary(torch.randn(1, P, requires_grad=True), SPEAKER[:1], EMOTION[:1]).loss
    loss.backward()
    assert loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in adversary.norm.state_dict().items())


def test_a_normalising_head_ignores_the_scale_of_the_features():
    adversary, pooled = SpeakerClassifier(P, S, 2, hidden_size=8, dropout=0.0, normalize=True), torch.randn(4, P)
    first, second = (adversary(values, SPEAKER, EMOTION).speaker_logits for values in (pooled * 100 + 7, pooled))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_an_adversary_can_have_a_learning_rate_of_its_own():
    network = EnhancedGRU(6, 4, hidden_size=4, layers=1, heads=2)
    adversary = SpeakerClassifier(network.pooled_size, S, 4, lr_factor=10.0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    module = EmotionModule(network, adversary, CrossEntropy(), optimizer, "abcd", augmentation=Augmentation([]))
    groups = module.configure_optimizers().param_groups
    rate = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    for name, weight in module.named_parameters():
        assert rate[id(weight)] == pytest.approx(1.0 if name.startswith("adversary.") else 0.1), name


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"weight": float("nan")}, {"lr_factor": 0.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(SerError, match="expected"):
        SpeakerClassifier(P, S, 2, **settings)


@pytest.mark.parametrize("model", ["gru", "enhanced_gru", "bottleneck_gru"])
@pytest.mark.parametrize("adversarial", ["gradient_reversal", "fast_head", "none", "critics"])
def test_every_adversary_trains_with_every_network(configure, tmp_path, model, adversarial):
    words = [f"model={model}", f"adversarial={adversarial}", "alpha_schedule=constant"]
    training.run(configure(*words, "batches.batch_size=7"))
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("adversary.") for name in state) == (adversarial != "none")
    assert "speakers" not in read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[0].plain["network"]


def test_the_weight_on_the_page_overrides_that_of_the_adversary(configure):
    for words, expected in (([], 0.05), (["adversarial_weight=0.3"], 0.3), (["adversarial.weight=0.2"], 0.2)):
        cfg = configure(*words)
        assert instantiate(cfg, "adversarial", weight=cfg.adversarial_weight)(P, S, 2).weight == expected


def test_a_checkpoint_keeps_what_an_adversary_erases(configure, tmp_path, monkeypatch):
    monkeypatch.setattr("ser.adversary.SpeakerClassifier", lambda *sizes, **_: Erasing(*sizes))
    training.run(configure())
    config, weights = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    network = build_network(config.plain["network"]).eval()
    network.load_state_dict(weights)
    output = network(torch.randn(4, 9, config.input_size), torch.tensor([9, 7, 4, 3]))
    assert (output.pooled[:, 0] == 0).all() and (output.pooled[:, 1:] != 0).any()


def voices(rows=400, size=24, speakers=6, seed=0):
    """Statistics with a speaker and an emotion in them, whose cells differ in size, and both labels."""
    generator = torch.Generator().manual_seed(seed)
    emotion = torch.randint(3, (rows,), generator=generator)
    favourite = torch.rand(rows, generator=generator) < 0.5  # speakers show some emotions more often
    speaker = torch.where(favourite, emotion * 2, torch.randint(speakers, (rows,), generator=generator))
    parts = [torch.randn(count, size, generator=generator) for count in (rows, speakers, 3)]
    return parts[0] + 2 * parts[1][speaker] + 2 * parts[2][emotion], speaker, emotion


def erased(statistics, speaker, groups, rank=5, shrinkage=0.1):
    erase = LinearErasure(statistics.shape[1], rank)
    for name, value in fit_erasure(statistics, speaker, groups, rank, shrinkage).items():
        getattr(erase, name).copy_(value)
    return erase(statistics)


def speaker_differences(statistics, speaker, groups):
    """Cross-covariance (S, F) of speaker and statistics within groups."""
    centred = statistics - torch.stack([statistics[groups == group].mean(0) for group in range(3)])[groups]
    return torch.nn.functional.one_hot(speaker).float().T @ centred / len(statistics)


@pytest.mark.parametrize("shrinkage", [0.01, 0.1, 1.0])
def test_erasure_leaves_no_linear_trace_of_the_speaker_within_emotions(shrinkage):
    statistics, speaker, emotion = voices()
    assert speaker_differences(statistics, speaker, emotion).abs().max() > 0.05
    left = erased(statistics, speaker, emotion, shrinkage=shrinkage)
    assert speaker_differences(left, speaker, emotion).abs().max() < 1e-4
    assert torch.linalg.matrix_rank(left - statistics, tol=1e-3) <= 5
    means = [torch.stack([values[emotion == number].mean(0) for number in range(3)]) for values in (statistics, left)]
    assert torch.pdist(means[1]).min() > 0.5 * torch.pdist(means[0]).min()  # the emotion is still there


def test_erasing_within_emotions_keeps_more_of_a_correlated_emotion():
    statistics, speaker, emotion = voices(size=12)

    def spread(values):
        return torch.pdist(torch.stack([values[emotion == number].mean(0) for number in range(3)])).min()

    within, across = erased(statistics, speaker, emotion), erased(statistics, speaker, torch.zeros_like(emotion))
    assert spread(within) > 1.3 * spread(across)


def test_erasure_of_speakers_that_do_not_differ_changes_nothing():
    statistics = torch.randn(60, 8)
    same = statistics.repeat(3, 1)
    torch.testing.assert_close(erased(same, torch.arange(3).repeat_interleave(60), torch.zeros(180, dtype=int)), same)


@pytest.mark.parametrize("model", ["gru", "enhanced_gru", "bottleneck_gru"])
def test_training_fits_the_erasure_and_checkpoints_keep_it(configure, tmp_path, model):
    training.run(configure(f"model={model}", "adversarial=erasure"))
    config, weights = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    network = build_network(config.plain["network"]).eval()
    network.load_state_dict(weights)
    assert network.erase.write.shape == (config.plain["network"]["erase"], network.statistics_size)
    frames, lengths = torch.randn(4, 9, config.input_size), torch.tensor([9, 7, 4, 3])
    output = network(frames, lengths)
    left = network.erase(output.statistics)
    assert not torch.allclose(left, output.statistics)
    assert torch.allclose(left @ network.erase.read, network.erase.mean @ network.erase.read, atol=1e-4)
    torch.testing.assert_close(output.pooled, network.reduce(left))


@pytest.mark.parametrize("kind", [KernelIndependence, ReversalCritics, ConfusionCritics])
def test_removal_brings_the_speakers_of_free_features_together(kind):
    """Each speaker's shift is free to move, in a feature of small variance: the loss alone must take them together."""
    torch.manual_seed(0)
    speaker, emotion = torch.arange(240) % 4, torch.arange(240) // 4 % 2
    features = torch.randn(240, 6) + 3 * emotion[:, None]
    features[:, 0] = 0.1 * (features[:, 0] + 4 * speaker)
    shift = torch.nn.Parameter(torch.zeros(4))
    adversary = kind(6, 4, 2, memory=64)
    adversary.alpha.fill_(1.0)
    optimizer = torch.optim.Adam([shift], 0.003)

    def moved():
        return torch.cat(((features[:, 0] + shift[speaker])[:, None], features[:, 1:]), dim=1)

    before = accuracy(moved().detach(), speaker, emotion)
    for _ in range(150):
        rows = torch.randint(240, (48,))
        optimizer.zero_grad()
        adversary(moved()[rows], speaker[rows], emotion[rows]).loss.backward()
        optimizer.step()
    after = accuracy(moved().detach(), speaker, emotion)
    assert before > 0.8 and after < 0.6, (before, after)


@pytest.mark.parametrize("kind", [KernelIndependence, ReversalCritics, ConfusionCritics, FlatCritics])
def test_the_gradient_of_heads_and_kernels_is_multiplied_by_alpha(kind):
    adversary, gradients = kind(P, S, 2), []
    for _ in range(5):  # enough to remember
        adversary(torch.randn(16, P, requires_grad=True), torch.randint(S, (16,)), torch.randint(2, (16,)))
    state = {name: value.clone() for name, value in adversary.state_dict().items() if isinstance(value, torch.Tensor)}
    adversary.eval()
    for alpha in (0.0, 1.0, 0.5):
        adversary.load_state_dict(state, strict=False)
        adversary.alpha.fill_(alpha)
        pooled = (10 * torch.arange(4.0 * P).sin().view(4, P)).requires_grad_()
        adversary(pooled, SPEAKER, EMOTION).loss.backward()
        gradients.append(pooled.grad)
    assert (gradients[0] == 0).all() and (gradients[1] != 0).any()
    torch.testing.assert_close(gradients[2], gradients[1] / 2)


def test_heads_belong_to_their_own_optimizer_and_its_state_is_kept():
    torch.manual_seed(0)
    pooled, speaker, emotion = torch.randn(80, P), torch.randint(S, (80,)), torch.randint(2, (80,))

    def step(adversary):
        torch.manual_seed(3)
        return adversary(pooled, speaker, emotion)

    first, second = ReversalCritics(P, S, 2), ReversalCritics(P, S, 2)
    assert not any(parameter.requires_grad for parameter in first.parameters())
    step(first)
    step(first)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for a, b in zip(step(first), step(second), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_head_at_chance_starts_anew():
    torch.manual_seed(0)
    adversary = ReversalCritics(P, S, 2)
    with torch.no_grad():
        for parameter in adversary.heads[0].parameters():
            parameter.fill_(0.0)
    adversary.dead[0], adversary.recent[0] = 50, 10.0
    adversary(torch.randn(64, P), torch.randint(S, (64,)), torch.randint(2, (64,)))
    assert adversary.heads[0].weight.abs().max() > 0.1 and adversary.dead[0] == 0


def accuracy(features, speaker, emotion):
    """How often QDA on features centred within the emotion names the speaker of every other utterance."""
    centred = features - torch.stack([features[emotion == number].mean(0) for number in range(2)])[emotion]
    centred = (centred / centred.std(0)).double().numpy()
    known = np.arange(len(centred)) % 3 > 0
    probe = QuadraticDiscriminantAnalysis(reg_param=0.05).fit(centred[known], speaker.numpy()[known])
    return float((probe.predict(centred[~known]) == speaker.numpy()[~known]).mean())


@pytest.mark.parametrize("strength", ["null", "0.03"])
def test_erasure_after_training_leaves_the_answer_alone(configure, tmp_path, strength):
    """Nothing but the answer is left, and it is that of an erasure of the speakers' directions only."""
    words = ["experiment=adversary/erasure_after", "trainer.max_epochs=3", f"adversarial.strength={strength}",
             "callbacks.progress_bar=null", "logger=none", "figures=false", "leakage=false"]  # fmt: skip
    outputs = []
    for answer in ("true", "false"):
        training.run(configure(*words, f"adversarial.answer={answer}", folder=tmp_path / answer, tiny=False))
        config, weights = read_checkpoint(tmp_path / answer / "checkpoints" / "best.ckpt")
        network = build_network(config.plain["network"]).eval()
        network.load_state_dict(weights)
        frames = torch.randn(40, 9, config.input_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            outputs.append(network(frames, torch.full((40,), 9)))
    emotions = len(config.emotions)
    alone, more = (torch.linalg.svdvals(output.pooled - output.pooled.mean(dim=0)) for output in outputs)
    assert alone[emotions - 2] > 1e-3 and alone[emotions - 1] < 1e-3 * alone[0]
    assert more[emotions - 1] > 1e-2 * more[0]
    probabilities = [output.emotion_logits.softmax(-1) for output in outputs]
    torch.testing.assert_close(*probabilities, atol=1e-4, rtol=0)


def test_erasure_after_training_refuses_to_choose_among_epochs(configure):
    with pytest.raises(SerError, match="last epoch"):
        training.run(configure("model=statistics_mlp", "adversarial=erasure_after"))


def test_erasure_after_training_needs_a_linear_head_on_the_statistics(configure):
    with pytest.raises(SerError, match="bottleneck"):
        training.run(configure("model=bottleneck_gru", "adversarial=erasure_after"))
