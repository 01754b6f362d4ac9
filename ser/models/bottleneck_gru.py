"""A small network: few layers, statistics pooling, and a bottleneck of few values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ser.data.batching import valid_frames
from ser.errors import check_number
from ser.models.attention import MultiHeadSelfAttention
from ser.models.enhanced_gru import ResidualRNN
from ser.models.layers import MeanStdPooling, Pooling
from ser.models.network import Network, check_settings


class Bottleneck(nn.Module):
    """Dropout, a linear layer to few values, each normalised; in training they carry noise.

    An information bottleneck (Tishby et al. 1999) by width, and by noise as in Alemi et al. 2017. It does not remove
    the speaker: probes still read the voice from the few values (README, "Measured").
    """

    def __init__(self, input_size: int, size: int, dropout: float, noise: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.reduce = nn.Linear(input_size, size)
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.noise = noise

    def forward(self, pooled: Tensor) -> Tensor:
        """Reduce pooled features (B, input_size) to (B, size)."""
        values: Tensor = self.norm(self.reduce(self.dropout(pooled)))
        return values + self.noise * torch.randn_like(values) if self.training and self.noise > 0 else values


class BottleneckGRU(Network):
    """Projection, residual GRU layers, self-attention, pooling, bottleneck, linear head.

    For the few hundred to few thousand utterances that emotion corpora have, where the deep network learns slowly.
    """

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        hidden_size: int = 32,
        layers: int = 1,
        cell: str = "gru",
        heads: int | None = None,
        dropout: float = 0.3,
        pooling: Callable[[int], Pooling] = MeanStdPooling,
        bottleneck: int | None = 16,
        noise: float = 0.5,
    ) -> None:
        super().__init__()
        check_settings(hidden_size, layers, dropout)
        check_number("model.noise", noise, 0)
        if bottleneck is not None:
            check_number("model.bottleneck", bottleneck, 1, whole=True)
        width = 2 * hidden_size
        self.project = nn.Linear(input_size, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(ResidualRNN(width, hidden_size, dropout, cell) for _ in range(layers))
        self.attention = MultiHeadSelfAttention(width, heads, dropout) if heads is not None else None
        self.pooling = pooling(width)
        size = self.pooling.size
        self.bottleneck = Bottleneck(size, bottleneck, dropout, noise) if bottleneck else nn.Dropout(dropout)
        self.pooled_size = bottleneck or size
        self.head = nn.Linear(self.pooled_size, emotions)

    @property
    def statistics_size(self) -> int:
        """Width of the pooled statistics, before the bottleneck."""
        return self.pooling.size

    def reduce(self, statistics: Tensor) -> Tensor:
        """Return the bottleneck's values (B, bottleneck) of pooled statistics (B, F)."""
        values: Tensor = self.bottleneck(statistics)
        return values

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the pooled statistics (B, F) and the head-averaged attention weights (B, L, L) or None."""
        mask = valid_frames(lengths, frames.shape[1])  # (B, L)
        states = self.dropout(self.project(frames))  # (B, L, 2H)
        for layer in self.layers:
            states = layer(states, lengths)  # (B, L, 2H)
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, mask, return_attention)  # (B, L, 2H), (B, L, L)
        return self.pooling(states, mask), weights
