"""Dropout on CPU, of values and of attention weights: fair, repeatable, with the right derivative."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ser.models.cpu import dropped_attention as module
from ser.models.cpu.dropout import Dropout, keep_mask, kept_share
from ser.models.cpu.dropped_attention import dropped_attention

LENGTHS = torch.tensor([9, 1, 14, 5])
MASK = torch.arange(14) < LENGTHS.unsqueeze(1)


def of_pairs(dtype=torch.float64, heads=3, size=4):
    torch.manual_seed(1)
    return [torch.randn(len(LENGTHS), heads, 14, size, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_each_element_is_dropped_with_the_probability_and_independently(probability):
    torch.manual_seed(2)
    keep = keep_mask(torch.Size((400, 1001)), probability).double()
    assert abs(keep.mean() - kept_share(probability)) < 0.005
    assert abs(kept_share(probability) - (1 - probability)) < 1e-5
    spread = 6 * (probability * (1 - probability) / 400) ** 0.5
    assert (keep.mean(dim=0) - kept_share(probability)).abs().max() < spread
    for lag in (1, 2, 3, 4):  # neighbours come from the same random number
        together = (keep[:, lag:] * keep[:, :-lag]).mean()
        assert abs(together - (1 - probability) ** 2) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 7)])
def test_kept_elements_are_scaled_and_the_gradient_passes_where_the_element_did(dtype, shape):
    torch.manual_seed(3)
    values = torch.ones(shape, dtype=dtype, requires_grad=True)
    dropped = Dropout(0.3)(values)
    dropped.sum().backward()
    assert dropped.dtype == dtype and dropped.shape == values.shape
    assert set(dropped.flatten().tolist()) <= {0.0, float(torch.tensor(1 / kept_share(0.3), dtype=dtype))}
    assert torch.equal(values.grad, dropped)


def test_dropout_repeats_with_the_seed_and_does_nothing_when_it_should_not():
    values, layer = torch.randn(8, 9), Dropout(0.5)
    torch.manual_seed(4)
    once, other = layer(values), layer(values)
    torch.manual_seed(4)
    assert torch.equal(layer(values), once) and not torch.equal(once, other)
    assert torch.equal(layer.eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    assert not Dropout(1.0)(values).any()
    assert isinstance(layer, nn.Dropout)  # so that what looks for dropout layers finds it


@pytest.mark.parametrize("block", [1, 500, 1 << 20])
def test_attention_drops_weights_of_the_formula(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_WEIGHTS", block)
    query, key, _ = of_pairs()
    identity = torch.eye(14, dtype=query.dtype).expand(len(LENGTHS), 3, 14, 14)  # so that the contexts are the weights
    scores = (query @ key.mT) * query.shape[-1] ** -0.5
    expected = scores.masked_fill(~MASK[:, None, None], -torch.inf).softmax(dim=-1) / kept_share(0.3)
    torch.manual_seed(5)
    found = dropped_attention(query, key, identity, MASK, 0.3)
    kept = found != 0
    torch.testing.assert_close(found, expected * kept)
    assert not kept[~MASK[:, None, None].expand_as(kept)].any()
    share = kept[MASK[:, None, None].expand_as(kept)].double().mean()
    assert abs(share - 0.7) < 0.05
    torch.manual_seed(5)
    assert torch.equal(dropped_attention(query, key, identity, MASK, 0.3), found)


def test_attention_without_drops_is_torchs_own():
    query, key, value = of_pairs(torch.float32)
    ours = dropped_attention(query, key, value, MASK, 1e-9)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(query, key, value, attn_mask=MASK[:, None, None]))


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_attention_has_the_derivative_of_what_it_computed(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_WEIGHTS", block)

    def contexts(*tensors):
        torch.manual_seed(6)  # the same weights dropped each time
        return dropped_attention(*tensors, MASK, 0.3)

    assert torch.autograd.gradcheck(contexts, of_pairs(heads=2, size=2))
