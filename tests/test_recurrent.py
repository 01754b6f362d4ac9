"""The bidirectional layer equals nn.GRU or nn.LSTM run on every utterance alone, in states and all gradients."""

import pytest
import torch
from torch import nn

from ser.models.cpu import gru
from ser.models.layers import CELLS, BidirectionalRNN

SIZES = {  # lengths, D, H
    "one frame": ([1], 3, 4),
    "one utterance": ([6], 3, 4),
    "one of one frame": ([1, 5], 3, 1),
    "variable": ([9, 1, 14, 5], 12, 8),
    "equal": ([7, 7, 7], 2, 16),
    "wide": ([12, 9], 40, 130),
}


def case(name, dtype=torch.float32, cell="gru"):
    torch.manual_seed(0)
    lengths, inputs, hidden = SIZES[name]
    layer = BidirectionalRNN(inputs, hidden, cell).to(dtype)
    frames = torch.randn(len(lengths), max(lengths), inputs, dtype=dtype, requires_grad=True)
    valid = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).unsqueeze(-1)
    return layer, frames, torch.tensor(lengths), valid


def alone(layer, frames, lengths):
    """States of every utterance by torch's layer, without padding; 0 beyond its end."""
    rows = []
    for row, length in zip(frames, lengths.tolist(), strict=True):
        ahead, _ = layer.forward_direction(row[None, :length])
        back, _ = layer.backward_direction(row[None, :length].flip(1))
        states = torch.cat((ahead, back.flip(1)), dim=-1)[0]
        rows.append(nn.functional.pad(states, (0, 0, 0, frames.shape[1] - length)))
    return torch.stack(rows)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", SIZES)
def test_states_and_gradients_equal_those_of_each_utterance_alone(name, cell):
    layer, frames, lengths, valid = case(name, torch.float64, cell)
    results = []
    for states in (layer(frames, lengths) * valid, alone(layer, frames, lengths)):
        weights = list(layer.parameters())
        results.append((states, *torch.autograd.grad(states.square().sum(), (frames, *weights))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("chunk", [1, 1000])  # values per piece: a frame, some frames
def test_training_on_a_cpu_gives_the_states_and_gradients_of_plain_layers(name, chunk, monkeypatch):
    monkeypatch.setattr(gru, "CHUNK", chunk)
    layer, frames, lengths, valid = case(name, torch.float64)
    slopes = torch.randn((*frames.shape[:2], 2 * layer.forward_direction.hidden_size), dtype=torch.float64)
    results = []
    for own in (True, False):
        monkeypatch.setattr(gru, "ENABLED", own)
        states = layer(frames, lengths) * valid
        gradients = torch.autograd.grad((states * slopes).sum(), (frames, *layer.parameters()))
        results.append((states, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(frames, lengths) * valid, results[0][0], atol=1e-12, rtol=1e-10)


def test_layers_that_train_are_told_from_those_that_do_not():
    layer, frames, _, _ = case("variable")
    assert gru.can_train(layer.forward_direction, frames.detach())
    layer.requires_grad_(False)
    assert gru.can_train(layer.forward_direction, frames)
    assert not gru.can_train(layer.forward_direction, frames.detach())
    assert not gru.can_train(nn.LSTM(12, 8), frames)
    with torch.no_grad():
        assert not gru.can_train(layer.forward_direction, frames)
    assert not gru.can_train(layer.forward_direction, frames.expand(2000, -1, -1, -1)[:, 0])


def test_a_traced_layer_takes_other_lengths():
    layer, frames, lengths, _ = case("equal")
    traced = torch.jit.trace(layer, (frames[:, :3], lengths - 4), check_trace=False)
    torch.testing.assert_close(traced(frames, lengths), layer(frames, lengths))


def test_second_derivatives_are_refused_not_left_out():
    layer, frames, lengths, _ = case("variable")
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(layer(frames, lengths).sum(), frames, create_graph=True)


def test_no_utterance_gives_no_gradient():
    layer, frames, lengths, _ = case("variable")
    layer(frames[:0], lengths[:0]).sum().backward()
    assert not layer.forward_direction.weight_hh_l0.grad.any()


def test_padding_neither_changes_a_state_nor_gets_a_gradient():
    layer, frames, lengths, valid = case("variable")
    states = layer(frames, lengths) * valid
    other = torch.where(valid, frames.detach(), torch.tensor(1e4))
    torch.testing.assert_close(layer(other, lengths) * valid, states)
    states.sum().backward()
    assert (frames.grad.masked_select(~valid) == 0).all()


def test_bfloat16_autocast_stays_near():
    layer, frames, lengths, valid = case("wide")
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            states = layer(frames, lengths)
        assert states.dtype == (torch.bfloat16 if enabled else torch.float32)
        states = states.float() * valid
        results.append((states, *torch.autograd.grad(states.square().sum(), (frames, *layer.parameters()))))
    for expected, found in zip(*results, strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= 0.03 * expected.abs().max()


def test_checkpoints_hold_the_parameters_of_two_plain_layers():
    expected = {
        f"{direction}_direction.{name}" for direction in ("forward", "backward") for name in nn.GRU(2, 3).state_dict()
    }
    assert set(BidirectionalRNN(2, 3).state_dict()) == expected
