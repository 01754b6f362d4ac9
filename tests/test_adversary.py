"""Adversaries: gradients, learning rates, small batches, and what a checkpoint says of an erasure."""

from functools import partial

import pytest
import torch
from hydra.utils import instantiate

from ser import training
from ser.adversary import Adversary, AdversaryOutput, SpeakerClassifier, reverse_gradient
from ser.data.augmentation import Augmentation
from ser.errors import SerError
from ser.inference.checkpoint import read_checkpoint
from ser.losses import CrossEntropy
from ser.models.build import build_network
from ser.models.enhanced_gru import EnhancedGRU
from ser.models.network import LinearErasure
from ser.module import EmotionModule

P, S = 5, 3
SPEAKER, EMOTION = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1])


class Erasing(Adversary):
    """Erases the first pooled value, as a concept-erasing method would erase the speakers' directions."""

    def __init__(self, pooled, speakers, *, weight=0.0):
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
    adversary = SpeakerClassifier(P, S, hidden_size=32, dropout=0.0)
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
    adversary = SpeakerClassifier(P, S, hidden_size=8, normalize=True)
    before = {name: value.clone() for name, value in adversary.norm.state_dict().items()}
    loss = adversary(torch.randn(1, P, requires_grad=True), SPEAKER[:1], EMOTION[:1]).loss
    loss.backward()
    assert loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in adversary.norm.state_dict().items())


def test_a_normalising_head_ignores_the_scale_of_the_features():
    adversary, pooled = SpeakerClassifier(P, S, hidden_size=8, dropout=0.0, normalize=True), torch.randn(4, P)
    first, second = (adversary(values, SPEAKER, EMOTION).speaker_logits for values in (pooled * 100 + 7, pooled))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_an_adversary_can_have_a_learning_rate_of_its_own():
    network = EnhancedGRU(6, 4, hidden_size=4, layers=1, heads=2)
    adversary = SpeakerClassifier(network.pooled_size, S, lr_factor=10.0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    module = EmotionModule(network, adversary, CrossEntropy(), optimizer, "abcd", augmentation=Augmentation([]))
    groups = module.configure_optimizers().param_groups
    rate = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    for name, weight in module.named_parameters():
        assert rate[id(weight)] == pytest.approx(1.0 if name.startswith("adversary.") else 0.1), name


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"weight": float("nan")}, {"lr_factor": 0.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(SerError, match="expected"):
        SpeakerClassifier(P, S, **settings)


@pytest.mark.parametrize("model", ["gru", "enhanced_gru", "bottleneck_gru"])
@pytest.mark.parametrize("adversarial", ["gradient_reversal", "fast_head", "none"])
def test_every_adversary_trains_with_every_network(configure, tmp_path, model, adversarial):
    words = [f"model={model}", f"adversarial={adversarial}", "alpha_schedule=constant"]
    training.run(configure(*words, "batches.batch_size=7"))
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("adversary.classifier") for name in state) == (adversarial != "none")
    assert "speakers" not in read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[0].plain["network"]


def test_the_weight_on_the_page_overrides_that_of_the_adversary(configure):
    for words, expected in (([], 0.05), (["adversarial_weight=0.3"], 0.3), (["adversarial.weight=0.2"], 0.2)):
        cfg = configure(*words)
        assert instantiate(cfg.adversarial, weight=cfg.adversarial_weight)(P, S).weight == expected


def test_a_checkpoint_keeps_what_an_adversary_erases(configure, tmp_path, monkeypatch):
    monkeypatch.setattr("ser.adversary.SpeakerClassifier", lambda pooled, speakers, **_: Erasing(pooled, speakers))
    training.run(configure())
    config, weights = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    network = build_network(config.plain["network"]).eval()
    network.load_state_dict(weights)
    output = network(torch.randn(4, 9, config.input_size), torch.tensor([9, 7, 4, 3]))
    assert (output.pooled[:, 0] == 0).all() and (output.pooled[:, 1:] != 0).any()
