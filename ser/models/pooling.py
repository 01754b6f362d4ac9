"""From the frames of an utterance to one vector; padding counts for nothing."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ser.models.layers import masked_max, masked_mean

_SMALLEST_VARIANCE = 1e-5  # the root's gradient is finite for one frame, too


class Pooling(nn.Module, ABC):
    """Two statistics of each channel; ``width`` is that of the frames, the vector has twice as much."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = 2 * width

    @abstractmethod
    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, width), valid frames (B, L) -> (B, 2 width)."""


class MeanMaxPooling(Pooling):
    """Mean and maximum over the valid frames."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """See the parent."""
        return torch.cat((masked_mean(states, mask), masked_max(states, mask)), dim=-1)


class MeanStdPooling(Pooling):
    """Mean and deviation over the valid frames (statistics pooling, Snyder et al. 2018)."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """See the parent."""
        mean = masked_mean(states, mask)  # (B, width)
        variance = masked_mean((states - mean.unsqueeze(1)).square(), mask)
        return torch.cat((mean, (variance + _SMALLEST_VARIANCE).sqrt()), dim=-1)


class AttentiveStatisticsPooling(Pooling):
    """Mean and deviation under learned weights (Okabe et al. 2018), a set a channel (Desplanques et al. 2020).

    Args:
        width: of the frames.
        hidden_size: of the layer that scores the frames.
    """

    def __init__(self, width: int, hidden_size: int = 64) -> None:
        super().__init__(width)
        self.score = nn.Sequential(nn.Linear(width, hidden_size), nn.Tanh(), nn.Linear(hidden_size, width))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """See the parent."""
        valid = mask.unsqueeze(-1)  # (B, L, 1)
        weights = self.score(states).float().masked_fill(~valid, -torch.inf).softmax(dim=1)  # (B, L, width)
        states = states.masked_fill(~valid, 0.0)
        mean = (weights * states).sum(dim=1)  # (B, width)
        variance = (weights * (states - mean.unsqueeze(1)).square()).sum(dim=1)
        return torch.cat((mean, (variance + _SMALLEST_VARIANCE).sqrt()), dim=-1)
