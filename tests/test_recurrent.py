"""The bidirectional layer equals nn.GRU or nn.LSTM run on every utterance alone, in states and all gradients."""

import pytest
import torch
from torch import nn

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


def test_padding_neither_changes_a_state_nor_gets_a_gradient():
    layer, frames, lengths, valid = case("variable")
    states = layer(frames, lengths) * valid
    other = torch.where(valid, frames.detach(), torch.tensor(1e4))
    torch.testing.assert_close(layer(other, lengths) * valid, states)
    states.sum().backward()
    assert (frames.grad.masked_select(~valid) == 0).all()


def test_bfloat16_autocast_stays_near():
    layer, frames, lengths, valid = case("wide")
    expected = layer(frames, lengths) * valid
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(frames, lengths).float() * valid
    assert (found - expected).abs().max() <= 0.03 * expected.abs().max()


def test_checkpoints_hold_the_parameters_of_two_plain_layers():
    expected = {
        f"{direction}_direction.{name}" for direction in ("forward", "backward") for name in nn.GRU(2, 3).state_dict()
    }
    assert set(BidirectionalRNN(2, 3).state_dict()) == expected
