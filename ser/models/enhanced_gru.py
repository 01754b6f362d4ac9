"""The speaker-independent network: speaker normalisation, deep GRU, self-attention, adversarial speaker head."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ser.models.attention import MultiHeadSelfAttention
from ser.models.cpu.dropout import Dropout
from ser.models.heads import ClassifierHead
from ser.models.layers import (
    BidirectionalGRU,
    SinusoidalPositions,
    SpeakerNorm,
    masked_max,
    masked_mean,
    valid_frames,
)
from ser.models.output import NetworkOutput


class ResidualGRU(nn.Module):
    """Bidirectional GRU, LayerNorm, the input added where the widths agree, dropout."""

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.gru = BidirectionalGRU(input_size, hidden_size)
        self.norm = nn.LayerNorm(2 * hidden_size)
        self.dropout = Dropout(dropout)
        self.residual = input_size == 2 * hidden_size

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, input_size) of ``lengths`` (B,) -> (B, L, 2 * hidden_size)."""
        output: Tensor = self.norm(self.gru(states, lengths))
        return self.dropout(output + states if self.residual else output)


class EnhancedGRU(nn.Module):
    """Projection, positions, speaker norm, residual GRU layers, self-attention, enhancement, mean and max, heads.

    Args:
        input_size: D, values a frame.
        emotions: C, number of classes.
        speakers: S, number of training speakers.
        hidden_size: H; the GRU layers have 2H units a direction, the heads H.
        layers: number of GRU layers.
        heads: attention heads; a divisor of 4H.
        dropout: probability, everywhere.
        speaker_norm: whether to normalise each utterance (:class:`SpeakerNorm`).
        attention: whether to attend.
        speaker_head: makes the adversarial head from (pooled width, S); None leaves it out.

    Raises:
        SerError: ``heads`` does not divide 4H.
    """

    pooled_multiple = 12  # pooled width in units of H: mean and max of 6H

    def __init__(
        self,
        input_size: int,
        emotions: int,
        speakers: int,
        *,
        hidden_size: int = 256,
        layers: int = 3,
        heads: int = 8,
        dropout: float = 0.3,
        speaker_norm: bool = True,
        attention: bool = True,
        speaker_head: Callable[[int, int], nn.Module | None] | None = None,
    ) -> None:
        super().__init__()
        half, width = 2 * hidden_size, 4 * hidden_size
        self.project = nn.Linear(input_size, half)
        self.positions = SinusoidalPositions(half)
        self.speaker_norm = SpeakerNorm(half) if speaker_norm else None
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(ResidualGRU(width if index else half, half, dropout) for index in range(layers))
        self.attention = MultiHeadSelfAttention(width, heads, dropout) if attention else None
        self.enhance = nn.Sequential(
            nn.Linear(width, half),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(half, half),
            nn.ReLU(),
            Dropout(dropout),
        )
        pooled_size = self.pooled_multiple * hidden_size
        self.emotion_head = ClassifierHead(pooled_size, emotions, hidden_size, dropout)
        self.speaker_head = speaker_head(pooled_size, speakers) if speaker_head else None

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Mean and max of the states beside their enhancement: (B, L, 4H), (B, L) -> (B, 12H)."""
        both = (states, self.enhance(states))  # (B, L, 4H), (B, L, 2H); to join them first would copy every frame
        return torch.cat([pool(part, mask) for pool in (masked_mean, masked_max) for part in both], dim=-1)  # (B, 12H)

    def forward(
        self, frames: Tensor, lengths: Tensor, alpha: float | Tensor = 0.0, return_attention: bool = False
    ) -> NetworkOutput:
        """Classify a batch.

        Args:
            frames: (B, L, D).
            lengths: (B,) int64, valid frames of each utterance, at least 1.
            alpha: strength of the gradient reversal.
            return_attention: whether to return the head-averaged attention weights too.
        """
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
        pooled = self.pool(states, mask)  # (B, 12H)
        speaker_logits = self.speaker_head(pooled, alpha) if self.speaker_head is not None else None
        return NetworkOutput(self.emotion_head(pooled), speaker_logits, pooled, weights)
