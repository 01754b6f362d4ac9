"""The contract of every network: a body makes one vector per utterance, a head classifies it."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ser.errors import check_number


class NetworkOutput(NamedTuple):
    """What a network returns for a batch.

    Attributes:
        emotion_logits: (B, C).
        pooled: (B, P), one vector per utterance, the input of the head.
        attention: (B, L, L), row t holds the weights of query frame t; None unless asked for, or without attention.
        statistics: (B, F), the output of the body, before erasure and bottleneck.
    """

    emotion_logits: Tensor
    pooled: Tensor
    attention: Tensor | None
    statistics: Tensor


class LinearErasure(nn.Module):
    """Removes directions from the pooled statistics: ``x - (x - mean) @ read @ write``.

    Does nothing until ``mean``, ``read`` and ``write`` are set. An adversary (ser.adversary) that erases sets them
    during training. They are buffers, so every checkpoint and exported file has them.

    Args:
        size: F, width of the pooled statistics.
        rank: K, number of directions.
    """

    mean: Tensor
    read: Tensor
    write: Tensor

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("read", torch.zeros(size, rank))
        self.register_buffer("write", torch.zeros(rank, size))

    def forward(self, statistics: Tensor) -> Tensor:
        """Return the pooled statistics (B, F) without the directions."""
        return statistics - (statistics - self.mean) @ self.read @ self.write


class Network(nn.Module, ABC):
    """Base of the networks: ``body``, ``erase`` where an adversary asked for it, ``reduce``, ``head``.

    Subclasses define ``body`` and set ``head`` and ``pooled_size``; those with a bottleneck define ``reduce`` and
    ``statistics_size`` too. They know nothing of speakers.

    Attributes:
        head: pooled features (B, P) to emotion logits (B, C).
        pooled_size: P.
        erase: linear map between body and bottleneck; None for most networks.
    """

    head: nn.Module
    pooled_size: int
    erase: LinearErasure | None

    def __init__(self) -> None:
        super().__init__()
        self.erase = None

    @abstractmethod
    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the pooled statistics (B, F) and the attention weights (B, L, L) or None.

        Args:
            frames: (B, L, D), normalised.
            lengths: (B,) int64, valid frames of each utterance, at least 1.
            return_attention: whether to return the attention weights.
        """

    @property
    def statistics_size(self) -> int:
        """F, width of what ``body`` returns."""
        return self.pooled_size

    def reduce(self, statistics: Tensor) -> Tensor:
        """Return the pooled features (B, P) of pooled statistics (B, F); the same values without a bottleneck."""
        return statistics

    def forward(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> NetworkOutput:
        """Classify frames (B, L, D) of ``lengths`` (B,); the arguments are those of ``body``."""
        statistics, attention = self.body(frames, lengths, return_attention)
        pooled = self.reduce(statistics if self.erase is None else self.erase(statistics))
        return NetworkOutput(self.head(pooled), pooled, attention, statistics)


def check_settings(hidden_size: int, layers: int, dropout: float, smallest: int = 1) -> None:
    """Refuse sizes that a network cannot have.

    Raises:
        SerError: naming the setting.
    """
    check_number("model.hidden_size", hidden_size, smallest, whole=True)
    check_number("model.layers", layers, 1, whole=True)
    check_number("model.dropout", dropout, 0, 1)


class ClassifierHead(nn.Sequential):
    """Linear(-> H) - ReLU - Dropout - Linear(-> H/2) - ReLU - Dropout - Linear(-> classes)."""

    def __init__(self, input_size: int, classes: int, hidden_size: int = 256, dropout: float = 0.3) -> None:
        super().__init__(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size // 2, classes),
        )
