"""The speaker-independent network: speaker normalisation, deep GRU, self-attention, feature enhancement."""

import torch
from torch import Tensor, nn

from ser.models.attention import MultiHeadSelfAttention
from ser.models.layers import (
    BidirectionalGRU,
    SinusoidalPositions,
    SpeakerNorm,
    masked_max,
    masked_mean,
    valid_frames,
)
from ser.models.network import ClassifierHead, Network


class ResidualGRU(nn.Module):
    """Bidirectional GRU, LayerNorm, the input added where the widths agree, dropout."""

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.gru = BidirectionalGRU(input_size, hidden_size)
        self.norm = nn.LayerNorm(2 * hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.residual = input_size == 2 * hidden_size

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, input_size) of ``lengths`` (B,) -> (B, L, 2 * hidden_size)."""
        output: Tensor = self.norm(self.gru(states, lengths))
        return self.dropout(output + states if self.residual else output)


class EnhancedGRU(Network):
    """Projection, positions, speaker norm, residual GRU layers, self-attention, enhancement, mean and max, heads.

    Args:
        input_size: D, values a frame.
        emotions: C, number of classes.
        hidden_size: H; the GRU layers have 2H units a direction, the heads H.
        layers: number of GRU layers.
        heads: attention heads; a divisor of 4H.
        dropout: probability, everywhere.
        speaker_norm: whether to normalise each utterance (:class:`SpeakerNorm`).
        attention: whether to attend.

    Raises:
        SerError: ``heads`` does not divide 4H.
    """

    pooled_multiple = 12  # pooled width in units of H: mean and max of 6H

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        hidden_size: int = 256,
        layers: int = 3,
        heads: int = 8,
        dropout: float = 0.3,
        speaker_norm: bool = True,
        attention: bool = True,
    ) -> None:
        super().__init__()
        half, width = 2 * hidden_size, 4 * hidden_size
        self.project = nn.Linear(input_size, half)
        self.positions = SinusoidalPositions(half)
        self.speaker_norm = SpeakerNorm(half) if speaker_norm else None
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(ResidualGRU(width if index else half, half, dropout) for index in range(layers))
        self.attention = MultiHeadSelfAttention(width, heads, dropout) if attention else None
        self.enhance = nn.Sequential(
            nn.Linear(width, half),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(half, half),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.pooled_size = self.pooled_multiple * hidden_size
        self.head = ClassifierHead(self.pooled_size, emotions, hidden_size, dropout)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Mean and max of the states beside their enhancement: (B, L, 4H), (B, L) -> (B, 12H)."""
        both = (states, self.enhance(states))  # (B, L, 4H), (B, L, 2H); to join them first would copy every frame
        return torch.cat([pool(part, mask) for pool in (masked_mean, masked_max) for part in both], dim=-1)  # (B, 12H)

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the pooled features (B, 12H) and the head-averaged attention weights (B, L, L) or None."""
        mask = valid_frames(lengths, frames.shape[1])  # (B, L)
        states = self.positions(self.project(frames))  # (B, L, 2H)
        if self.speaker_norm is not None:
            states = self.speaker_norm(states, mask)
        states = self.dropout(states)
        for layer in self.layers:
            states = layer(states, lengths)  # (B, L, 4H)
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, mask, return_attention)  # (B, L, 4H), (B, L, L)
        return self.pool(states, mask), weights


class EnhancedGRUReference(EnhancedGRU):
    """:class:`EnhancedGRU` as first printed: the 6H concatenation cut to 4H, the pooled 8H cut to 4H.

    The cuts leave the mean of the attended states: enhancement and max pooling are computed and thrown away, and the
    enhancement's parameters get a gradient of exactly zero. Use it only to reproduce the publication.
    """

    pooled_multiple = 4

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, 4H), (B, L) -> (B, 4H)."""
        width = states.shape[-1]
        enhanced = torch.cat((states, self.enhance(states)), dim=-1)[..., :width]  # (B, L, 6H) -> (B, L, 4H)
        pooled = torch.cat((masked_mean(enhanced, mask), masked_max(enhanced, mask)), dim=-1)  # (B, 8H)
        return pooled[:, :width]  # (B, 4H)
