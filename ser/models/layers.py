"""Layers that respect the true length of every utterance: norm, positions, pooling and the recurrent layer."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ser.cpu import float32_products
from ser.errors import SerError
from ser.models.cpu.gru import can_train, run_directions

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}
_SMALLEST_VARIANCE = 1e-5  # keeps the gradient of the square root finite for an utterance of one frame


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the valid frames: (B, L, D), (B, L) -> (B, D)."""
    total = frames.masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=1)  # (B, D)
    return total / mask.sum(dim=1, keepdim=True)


def masked_max(frames: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum over the valid frames: (B, L, D), (B, L) -> (B, D)."""
    highest = frames.detach().masked_fill(~mask.unsqueeze(-1), -torch.inf).argmax(dim=1, keepdim=True)  # (B, 1, D)
    return frames.gather(1, highest).squeeze(1)  # on CPU a quarter of the time of amax and its derivative


class SpeakerNorm(nn.Module):
    """Removes the level and spread of each channel of each utterance ("AdaIN" in the system this one follows).

    Per utterance and channel, over valid frames: subtract the mean, divide by sqrt(biased variance + 1e-5), times a
    learned scale plus a learned shift. Much of what tells speakers apart is constant over an utterance and goes
    with the mean; this is instance normalisation (Ulyanov et al. 2016) with a mask.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Normalise (B, L, D) by the statistics of the frames that ``mask`` (B, L) marks; padding comes out as 0."""
        frames = frames.to(torch.promote_types(frames.dtype, torch.float32))  # bf16 has too few digits for a variance
        centred = frames - masked_mean(frames, mask).unsqueeze(1)  # (B, L, D)
        variance = masked_mean(centred.square(), mask).unsqueeze(1)  # (B, 1, D)
        normalised = centred * torch.rsqrt(variance + self.epsilon) * self.scale + self.shift
        return normalised.masked_fill(~mask.unsqueeze(-1), 0.0)


class SinusoidalPositions(nn.Module):
    """Adds PE[p, 2i] = sin(p / 10000^(2i/d)) and PE[p, 2i+1] = cos(same) (Vaswani et al. 2017, section 3.5).

    Computed for the length at hand rather than kept as a table, so no utterance is too long.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, frames: Tensor) -> Tensor:
        """Add the positions to (B, L, D)."""
        position = torch.arange(frames.shape[1], device=frames.device, dtype=torch.float32).unsqueeze(1)  # (L, 1)
        even = torch.arange(0, self.channels, 2, device=frames.device, dtype=torch.float32)  # 2i
        angle = position / torch.pow(10000.0, even / self.channels)  # (L, ceil(D/2))
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, : self.channels]  # (L, D)
        return frames + table.to(frames.dtype)


class Pooling(nn.Module, ABC):
    """Base of the poolings: frames of ``width`` values to one vector of ``size`` = 2 ``width`` values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = 2 * width

    @abstractmethod
    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool the frames (B, L, width) that ``mask`` (B, L) marks: (B, 2 width)."""


class MeanMaxPooling(Pooling):
    """Mean and maximum over the valid frames."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return mean and maximum (B, 2 width)."""
        return torch.cat((masked_mean(states, mask), masked_max(states, mask)), dim=-1)


class MeanStdPooling(Pooling):
    """Mean and std over the valid frames (statistics pooling, Snyder et al. 2018)."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return mean and std (B, 2 width)."""
        mean = masked_mean(states, mask)  # (B, width)
        variance = masked_mean((states - mean.unsqueeze(1)).square(), mask)
        return torch.cat((mean, (variance + _SMALLEST_VARIANCE).sqrt()), dim=-1)


class AttentiveStatisticsPooling(Pooling):
    """Weighted mean and std (Okabe et al. 2018) with learned weights per channel (Desplanques et al. 2020)."""

    def __init__(self, width: int, hidden_size: int = 64) -> None:
        super().__init__(width)
        self.score = nn.Sequential(nn.Linear(width, hidden_size), nn.Tanh(), nn.Linear(hidden_size, width))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return weighted mean and weighted std (B, 2 width)."""
        valid = mask.unsqueeze(-1)  # (B, L, 1)
        weights = self.score(states).float().masked_fill(~valid, -torch.inf).softmax(dim=1)  # (B, L, width)
        states = states.masked_fill(~valid, 0.0)
        mean = (weights * states).sum(dim=1)  # (B, width)
        variance = (weights * (states - mean.unsqueeze(1)).square()).sum(dim=1)
        return torch.cat((mean, (variance + _SMALLEST_VARIANCE).sqrt()), dim=-1)


class BidirectionalRNN(nn.Module):
    """One recurrent layer in both directions; the backward one starts at the true end of each utterance.

    The backward direction is a second layer over the frames of each utterance in reverse order, with the padding left
    behind them. Packed sequences compute the same, but cannot be exported, and on CPU a training step through them
    takes up to 3 times as long. GRUs that train on a CPU take :mod:`ser.models.cpu.gru` in place of ``nn.GRU``: the
    same to rounding, and up to twice as fast again (``python -m benchmarks.recurrent``).
    """

    def __init__(self, input_size: int, hidden_size: int, cell: str = "gru") -> None:
        super().__init__()
        if cell not in CELLS:
            raise SerError(f"model.cell={cell} was given, expected {' or '.join(CELLS)}; correct model.cell.")
        self.forward_direction = CELLS[cell](input_size, hidden_size, batch_first=True)
        self.backward_direction = CELLS[cell](input_size, hidden_size, batch_first=True)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Run over (B, L, D) of ``lengths`` (B,): states (B, L, 2H), undefined at padded frames."""
        time = torch.arange(frames.shape[1], device=lengths.device)
        end = lengths.unsqueeze(1)
        order = torch.where(time < end, end - 1 - time, time).unsqueeze(-1)  # (B, L, 1), its own inverse
        reverse = frames.gather(1, order.expand(-1, -1, frames.shape[-1]))  # (B, L, D)
        if can_train(self.forward_direction, frames):
            layers = (self.forward_direction, self.backward_direction)
            ahead, back = run_directions(layers, (frames, reverse))  # (B, L, H) each
        else:
            with float32_products(0):  # oneDNN would copy the weights once per frame
                ahead, _ = self.forward_direction(frames)
                back, _ = self.backward_direction(reverse)
        back = back.gather(1, order.expand(-1, -1, back.shape[-1]))  # (B, L, H), in time order again
        return torch.cat((ahead, back), dim=-1)  # (B, L, 2H)
