"""The baseline network: bidirectional GRU, matching attention, max pooling."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.models.attention import DotAttention
from ser.models.cpu.dropout import Dropout
from ser.models.layers import BidirectionalGRU, masked_max, valid_frames
from ser.models.output import NetworkOutput


class GRU(nn.Module):
    """Dropout, bidirectional GRU, matching attention, tanh, maximum over frames, LeakyReLU, dropout, linear.

    Args:
        input_size: D, values a frame.
        emotions: C, number of classes.
        speakers: S, number of training speakers.
        hidden_size: H, GRU units a direction.
        layers: number of GRU layers.
        dropout: probability.
        attention: makes the attention over states of the given width (2H); None leaves it out.
        speaker_head: makes the adversarial head from (pooled width, S); None leaves it out.
    """

    def __init__(
        self,
        input_size: int,
        emotions: int,
        speakers: int,
        *,
        hidden_size: int = 256,
        layers: int = 2,
        dropout: float = 0.2,
        attention: Callable[[int], nn.Module] | None = DotAttention,
        speaker_head: Callable[[int, int], nn.Module | None] | None = None,
    ) -> None:
        super().__init__()
        width = 2 * hidden_size
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            BidirectionalGRU(width if index else input_size, hidden_size) for index in range(layers)
        )
        self.attention = attention(width) if attention else None
        self.emotion_head = nn.Linear(width, emotions)
        self.speaker_head = speaker_head(width, speakers) if speaker_head else None

    def forward(
        self, frames: Tensor, lengths: Tensor, alpha: float | Tensor = 0.0, return_attention: bool = False
    ) -> NetworkOutput:
        """Classify a batch.

        Args:
            frames: (B, L, D).
            lengths: (B,) int64, valid frames of each utterance, at least 1.
            alpha: strength of the gradient reversal.
            return_attention: whether to return the attention weights too.
        """
        mask = valid_frames(lengths, frames.shape[1])  # (B, L)
        states = self.dropout(frames)
        for layer in self.layers:
            states = layer(states, lengths)  # (B, L, 2H)
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, mask, return_attention)  # (B, L, 2H), (B, L, L)
        pooled = F.leaky_relu(masked_max(torch.tanh(states), mask))  # (B, 2H)
        speaker_logits = self.speaker_head(pooled, alpha) if self.speaker_head is not None else None
        return NetworkOutput(self.emotion_head(self.dropout(pooled)), speaker_logits, pooled, weights)
