"""Losses agree with their formulas, with torch, and between hard and soft labels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ser.errors import SerError
from ser.losses import CrossEntropy, FocalLoss, l2_norms

torch.manual_seed(0)
LOGITS = torch.randn(10, 4)
TARGET = torch.tensor([0, 1, 2, 3, 0, 0, 1, 2, 0, 0])
COUNTS = [5, 2, 2, 1]
LOSSES = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy(label_smoothing=0.1, class_weighting=True),
    FocalLoss(),
    FocalLoss(class_weighting=True),
]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighting", [True, False])
def test_cross_entropy_is_that_of_torch(smoothing, weighting):
    loss = CrossEntropy(smoothing, weighting)
    loss.fit_class_counts(COUNTS)
    weight = 10 / (4 * torch.tensor(COUNTS).float()) if weighting else None
    torch.testing.assert_close(loss(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET, weight, label_smoothing=smoothing))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_hot_labels_mean_the_same_as_indices(loss):
    loss.fit_class_counts(COUNTS)
    torch.testing.assert_close(loss(LOGITS, F.one_hot(TARGET, 4).float()), loss(LOGITS, TARGET))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_with_extreme_logits_and_half_precision(loss):
    loss.fit_class_counts(COUNTS)
    logits = (LOGITS * 1000).to(torch.bfloat16).requires_grad_()
    value = loss(logits, TARGET)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_focal_loss_formula():
    probability = LOGITS.softmax(-1)[range(10), TARGET]
    expected = (-0.25 * (1 - probability) ** 2 * probability.log()).mean()
    torch.testing.assert_close(FocalLoss(0.25, 2.0)(LOGITS, TARGET), expected)
    torch.testing.assert_close(FocalLoss(1.0, 0.0)(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET))


def test_focal_gradient_is_finite_where_the_answer_is_certain():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    FocalLoss(gamma=0.5)(logits, torch.tensor([0])).backward()
    assert logits.grad.isfinite().all()


def test_class_weights_are_inverse_frequencies_and_ignore_absent_classes():
    loss = CrossEntropy(class_weighting=True)
    loss.fit_class_counts(torch.tensor([6, 2, 0]))
    assert loss.class_weights.tolist() == pytest.approx([8 / 18, 8 / 6, 0])
    assert loss.state_dict() == {}


def test_class_weighting_needs_counts():
    with pytest.raises(SerError, match="fit_class_counts"):
        CrossEntropy(class_weighting=True)(LOGITS, TARGET)


@pytest.mark.parametrize("build", [lambda: CrossEntropy(1.0), lambda: FocalLoss(gamma=-1), lambda: FocalLoss(alpha=0)])
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(SerError, match="expected"):
        build()


def test_l2_norms_sum_the_norms_of_matrices_only():
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GRU(5, 2))
    expected = sum(p.norm() for name, p in module.named_parameters() if "weight" in name and p.ndim == 2)
    torch.testing.assert_close(l2_norms(module), expected)
    l2_norms(module).backward()
    torch.testing.assert_close(module[0].weight.grad, (module[0].weight / module[0].weight.norm()).detach())
    assert module[0].bias.grad is None


def test_l2_norms_of_zeros_and_of_nothing():
    module = nn.Linear(3, 5)
    nn.init.zeros_(module.weight)
    l2_norms(module).backward()
    assert (module.weight.grad == 0).all()
    assert l2_norms(nn.ReLU()) == 0
