"""The written-out GRU equals nn.GRU run on every utterance alone, in its states and in all its gradients."""

import pytest
import torch
from torch import nn

from ser.models.cpu import recurrent
from ser.models.cpu.products import PlainProduct, product_precision
from ser.models.cpu.recurrent import bidirectional_gru, pays
from ser.models.layers import BidirectionalGRU

SIZES = {  # lengths, D, H
    "one frame": ([1], 3, 4),
    "one utterance": ([6], 3, 4),
    "one of one frame": ([1, 5], 3, 1),
    "variable": ([9, 1, 14, 5], 12, 8),
    "equal": ([7, 7, 7], 2, 16),
    "several blocks": ([70, 64, 31, 70] * 8, 5, 3),
    "wide": ([12, 9], 40, 130),
}


def case(name, dtype=torch.float32):
    torch.manual_seed(0)
    lengths, inputs, hidden = SIZES[name]
    layer = BidirectionalGRU(inputs, hidden).to(dtype)
    frames = torch.randn(len(lengths), max(lengths), inputs, dtype=dtype)
    gradient = torch.randn(len(lengths), max(lengths), 2 * hidden, dtype=dtype)
    for row, length in zip(gradient, lengths, strict=True):
        row[length:] = 0
    return layer, frames.requires_grad_(), torch.tensor(lengths), gradient


def alone(layer, frames, lengths):
    """States of every utterance by nn.GRU, without padding; 0 behind the end."""
    rows = []
    for row, length in zip(frames, lengths.tolist(), strict=True):
        ahead, _ = layer.forward_direction(row[None, :length])
        back, _ = layer.backward_direction(row[None, :length].flip(1))
        states = torch.cat((ahead, back.flip(1)), dim=-1)[0]
        rows.append(nn.functional.pad(states, (0, 0, 0, frames.shape[1] - length)))
    return torch.stack(rows)


def both(name, dtype=torch.float32, precision=torch.float32):
    layer, frames, lengths, gradient = case(name, dtype)
    weights = list(layer.parameters())
    results = []
    for states in (bidirectional_gru(frames, lengths, weights, precision), alone(layer, frames, lengths)):
        valid = states * (torch.arange(frames.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1)
        results.append((valid, *torch.autograd.grad(states, (frames, *weights), gradient)))
    return zip(*results, strict=True)


@pytest.mark.parametrize("name", SIZES)
def test_states_and_gradients_equal_those_of_each_utterance_alone(name):
    for ours, theirs in both(name):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1.0, theirs.abs().max().item()), rtol=1e-5)
    for ours, theirs in both(name, torch.float64, torch.float64):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", SIZES)
def test_products_in_bfloat16_stay_near(name):
    for ours, theirs in both(name, precision=torch.bfloat16):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 0.03 * theirs.abs().max() + 1e-6


def test_without_packed_products_the_results_are_the_same(monkeypatch):
    monkeypatch.setattr(recurrent, "best_product", lambda precision: PlainProduct)
    for ours, theirs in both("variable"):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_derivative_is_that_of_the_function():
    layer, frames, lengths, gradient = case("variable", torch.float64)
    mask = gradient != 0

    def states(frames, *weights):
        return bidirectional_gru(frames, lengths, weights, torch.float64) * mask

    assert torch.autograd.gradcheck(states, (frames, *layer.parameters()), fast_mode=True)


def test_padding_neither_changes_a_state_nor_gets_a_gradient():
    layer, frames, lengths, gradient = case("variable")
    padding = gradient == 0
    states = bidirectional_gru(frames, lengths, list(layer.parameters()), torch.float32)
    other = frames.detach().clone()
    other[padding.all(-1)] = 1e4
    again = bidirectional_gru(other, lengths, list(layer.parameters()), torch.float32)
    torch.testing.assert_close(again.masked_fill(padding, 0), states.masked_fill(padding, 0))
    states.sum().backward()
    assert (frames.grad[padding.all(-1)] == 0).all()


def test_layer_gives_the_same_by_either_way_and_in_every_gradient_mode(monkeypatch):
    layer, frames, lengths, gradient = case("wide")
    frames = frames.detach().repeat(16, 1, 1)
    lengths = lengths.repeat(16)
    valid = (gradient != 0).repeat(16, 1, 1)
    written_out = layer(frames, lengths)
    assert written_out.grad_fn.next_functions[0][0].name().startswith("BidirectionalRecurrence")
    with torch.no_grad():
        assert torch.equal(layer(frames, lengths), written_out)
    with torch.inference_mode():
        assert torch.equal(layer(frames, lengths), written_out)
    monkeypatch.setattr("ser.models.layers.pays", lambda *_: False)
    torch.testing.assert_close(layer(frames, lengths) * valid, written_out * valid)


def test_frozen_weights_and_inputs_without_gradient():
    layer, frames, lengths, _ = case("variable")
    layer.forward_direction.weight_ih_l0.requires_grad_(False)
    layer(frames.detach(), lengths).sum().backward()
    assert layer.forward_direction.weight_ih_l0.grad is None
    assert layer.backward_direction.weight_ih_l0.grad is not None
    layer.requires_grad_(False)
    layer(frames, lengths).sum().backward()
    assert frames.grad is not None


def test_backward_can_be_repeated_and_gives_the_same_bits():
    layer, frames, lengths, gradient = case("several blocks")
    states = layer(frames, lengths)
    first, second = (torch.autograd.grad(states, list(layer.parameters()), gradient, retain_graph=True) for _ in "ab")
    third = torch.autograd.grad(layer(frames, lengths), list(layer.parameters()), gradient)
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_autocast_chooses_the_precision_of_the_products_only(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    layer, frames, lengths, gradient = case("variable")
    weight = layer.forward_direction.weight_ih_l0
    assert product_precision(weight) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert product_precision(weight) == torch.bfloat16
        states = layer(frames, lengths)
    assert states.dtype == torch.float32
    states.backward(gradient)
    assert weight.grad.dtype == torch.float32
    half = layer.bfloat16()
    output = half(frames.detach().bfloat16(), lengths)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float() * (gradient != 0), states * (gradient != 0), atol=0.05, rtol=0.05)


def test_traced_graphs_hold_plain_gru_layers():
    layer, frames, lengths, gradient = case("wide")
    traced = torch.jit.trace(layer, (frames.detach(), lengths))
    assert "aten::gru" in str(traced.inlined_graph)
    assert not pays(frames.new_zeros(1, 0, 3), 4, training=True)
    assert not pays(frames, 4, training=False)
    torch.testing.assert_close(traced(frames, lengths) * (gradient != 0), layer(frames, lengths) * (gradient != 0))


def test_checkpoints_hold_the_parameters_of_two_plain_layers():
    expected = {
        f"{direction}_direction.{name}" for direction in ("forward", "backward") for name in nn.GRU(2, 3).state_dict()
    }
    assert set(BidirectionalGRU(2, 3).state_dict()) == expected
