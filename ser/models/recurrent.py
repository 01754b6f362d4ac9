"""Recurrent networks: the baseline, the deep speaker-independent one, and a small one with a bottleneck."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.data.batching import valid_frames
from ser.errors import check_number
from ser.models.attention import GeneralAttention, MatchingAttention, MultiHeadSelfAttention
from ser.models.layers import (
    BidirectionalRNN,
    MeanMaxPooling,
    MeanStdPooling,
    Pooling,
    SinusoidalPositions,
    SpeakerNorm,
    masked_max,
    masked_mean,
)
from ser.models.network import ClassifierHead, Network, check_settings


class GRU(Network):
    """Dropout, bidirectional GRU, matching attention, tanh, maximum over frames, LeakyReLU, dropout, linear."""

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        hidden_size: int = 256,
        layers: int = 2,
        cell: str = "gru",
        dropout: float = 0.2,
        attention: Callable[[int], MatchingAttention] | None = GeneralAttention,
    ) -> None:
        super().__init__()
        check_settings(hidden_size, layers, dropout)
        width = 2 * hidden_size
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            BidirectionalRNN(width if index else input_size, hidden_size, cell) for index in range(layers)
        )
        self.attention = attention(width) if attention else None
        self.pooled_size = width
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, emotions))

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the maximum of the attended states (B, 2H) and the attention weights (B, L, L) or None."""
        mask = valid_frames(lengths, frames.shape[1])  # (B, L)
        states = self.dropout(frames)
        for layer in self.layers:
            states = layer(states, lengths)  # (B, L, 2H)
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, mask, return_attention)  # (B, L, 2H), (B, L, L)
        return F.leaky_relu(masked_max(torch.tanh(states), mask)), weights  # (B, 2H)


class ResidualRNN(nn.Module):
    """Bidirectional recurrent layer, LayerNorm, the input added where the widths agree, dropout."""

    def __init__(self, input_size: int, hidden_size: int, dropout: float, cell: str = "gru") -> None:
        super().__init__()
        self.recurrent = BidirectionalRNN(input_size, hidden_size, cell)
        self.norm = nn.LayerNorm(2 * hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.residual = input_size == 2 * hidden_size

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Run over states (B, L, input_size) of ``lengths`` (B,): (B, L, 2 * hidden_size)."""
        output: Tensor = self.norm(self.recurrent(states, lengths))
        return self.dropout(output + states if self.residual else output)


class EnhancedGRU(Network):
    """Projection, positions, speaker norm, residual GRU layers, self-attention, enhancement, pooling, head."""

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        hidden_size: int = 256,
        layers: int = 3,
        cell: str = "gru",
        heads: int = 8,
        dropout: float = 0.3,
        attention_dropout: float | None = None,
        positions: bool = True,
        speaker_norm: bool = True,
        attention: bool = True,
        enhancement: bool = True,
        pooling: Callable[[int], Pooling] = MeanMaxPooling,
    ) -> None:
        super().__init__()
        check_settings(hidden_size, layers, dropout, smallest=2)  # the head halves it
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        check_number("model.attention_dropout", attention_dropout, 0, 1)
        half, width = 2 * hidden_size, 4 * hidden_size
        self.project = nn.Linear(input_size, half)
        self.positions = SinusoidalPositions(half) if positions else None
        self.speaker_norm = SpeakerNorm(half) if speaker_norm else None
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            ResidualRNN(width if index else half, half, dropout, cell) for index in range(layers)
        )
        self.attention = MultiHeadSelfAttention(width, heads, attention_dropout) if attention else None
        self.enhance = _enhancement(width, half, dropout) if enhancement else None
        poolings = [pooling(size) for size in (width, *[half] * enhancement)]
        self.poolings = nn.ModuleList(poolings)
        self.pooled_size = sum(pool.size for pool in poolings)
        self.head = ClassifierHead(self.pooled_size, emotions, hidden_size, dropout)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the pooled states beside their pooled enhancement: (B, L, 4H), (B, L) -> (B, 12H)."""
        parts = [states] if self.enhance is None else [states, self.enhance(states)]  # (B, L, 4H), (B, L, 2H)
        # Pooled one by one, since joining them first would copy every frame.
        return torch.cat([pool(part, mask) for pool, part in zip(self.poolings, parts, strict=True)], dim=-1)

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the pooled features (B, 12H) and the head-averaged attention weights (B, L, L) or None."""
        mask = valid_frames(lengths, frames.shape[1])  # (B, L)
        states = self.project(frames)  # (B, L, 2H)
        if self.positions is not None:
            states = self.positions(states)
        if self.speaker_norm is not None:
            states = self.speaker_norm(states, mask)
        states = self.dropout(states)
        for layer in self.layers:
            states = layer(states, lengths)  # (B, L, 4H)
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, mask, return_attention)  # (B, L, 4H), (B, L, L)
        return self.pool(states, mask), weights


def _enhancement(width: int, size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size), nn.ReLU(), nn.Dropout(dropout)
    )


class EnhancedGRUReference(EnhancedGRU):
    """``EnhancedGRU`` as first printed: the 6H concatenation cut to 4H, the pooled 8H cut to 4H.

    The cuts leave the mean of the attended states: enhancement and max pooling are computed and thrown away, and the
    enhancement's parameters get a gradient of exactly zero. Use it only to reproduce the publication.
    """

    def __init__(
        self, input_size: int, emotions: int, *, hidden_size: int = 256, dropout: float = 0.3, **settings: Any
    ) -> None:
        super().__init__(input_size, emotions, hidden_size=hidden_size, dropout=dropout, **settings)
        self.pooled_size = 4 * hidden_size
        self.head = ClassifierHead(self.pooled_size, emotions, hidden_size, dropout)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the states by way of the two cuts: (B, L, 4H), (B, L) -> (B, 4H)."""
        enhance: Any = self.enhance
        width = states.shape[-1]
        enhanced = torch.cat((states, enhance(states)), dim=-1)[..., :width]  # (B, L, 6H) -> (B, L, 4H)
        pooled = torch.cat((masked_mean(enhanced, mask), masked_max(enhanced, mask)), dim=-1)  # (B, 8H)
        return pooled[:, :width]  # (B, 4H)


class Bottleneck(nn.Module):
    """Dropout, a linear layer to few values, each normalised; in training they carry noise.

    An information bottleneck (Tishby et al. 1999) by width, and by noise as in Alemi et al. 2017. It does not remove
    the speaker: probes still read the voice from the few values (docs/results/speaker.md).
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
