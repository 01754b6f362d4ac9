"""The recommended network: few layers, statistics pooling, and a bottleneck of few values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ser.models.attention import MultiHeadSelfAttention
from ser.models.cpu.dropout import Dropout
from ser.models.enhanced_gru import ResidualGRU
from ser.models.layers import valid_frames
from ser.models.output import NetworkOutput
from ser.models.pooling import MeanStdPooling, Pooling


class Bottleneck(nn.Module):
    """Dropout, a linear layer to few values, each normalised; in training they carry noise.

    An information bottleneck (Tishby et al. 1999) by width, and by noise as in Alemi et al. 2017. It does not remove
    the speaker: probes still read the voice from the few values (README, "Measured").

    Args:
        input_size: width of the pooled features.
        size: values that are left.
        dropout: probability.
        noise: deviation of the noise, of values whose own deviation is 1.
    """

    def __init__(self, input_size: int, size: int, dropout: float, noise: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.reduce = nn.Linear(input_size, size)
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.noise = noise

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, input_size) -> (B, size)."""
        values: Tensor = self.norm(self.reduce(self.dropout(pooled)))
        return values + self.noise * torch.randn_like(values) if self.training and self.noise > 0 else values


class BottleneckGRU(nn.Module):
    """Projection, residual GRU layers, self-attention, pooling, bottleneck, linear emotion head, speaker head.

    For the few hundred to few thousand utterances that emotion corpora have, where the deep network learns slowly.

    Args:
        input_size: D, values a frame.
        emotions: C, number of classes.
        speakers: S, number of training speakers.
        hidden_size: H, GRU units a direction.
        layers: number of GRU layers.
        heads: attention heads, a divisor of 2H; None leaves attention out.
        dropout: probability, everywhere.
        pooling: makes the pooling of frames of a given width (2H).
        bottleneck: values an utterance is reduced to; None keeps the pooled features.
        noise: deviation of the noise on the bottleneck in training.
        speaker_head: makes the adversarial head from (pooled width, S); None leaves it out.

    Raises:
        SerError: ``heads`` does not divide 2H.
    """

    def __init__(
        self,
        input_size: int,
        emotions: int,
        speakers: int,
        *,
        hidden_size: int = 32,
        layers: int = 1,
        heads: int | None = None,
        dropout: float = 0.3,
        pooling: Callable[[int], Pooling] = MeanStdPooling,
        bottleneck: int | None = 16,
        noise: float = 0.5,
        speaker_head: Callable[[int, int], nn.Module | None] | None = None,
    ) -> None:
        super().__init__()
        width = 2 * hidden_size
        self.project = nn.Linear(input_size, width)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(ResidualGRU(width, hidden_size, dropout) for _ in range(layers))
        self.attention = MultiHeadSelfAttention(width, heads, dropout) if heads else None
        self.pooling = pooling(width)
        size = self.pooling.size
        self.bottleneck = Bottleneck(size, bottleneck, dropout, noise) if bottleneck else Dropout(dropout)
        size = bottleneck or size
        self.emotion_head = nn.Linear(size, emotions)
        self.speaker_head = speaker_head(size, speakers) if speaker_head else None

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
        states = self.dropout(self.project(frames))  # (B, L, 2H)
        for layer in self.layers:
            states = layer(states, lengths)  # (B, L, 2H)
        weights = None
        if self.attention is not None:
            states, weights = self.attention(states, mask, return_attention)  # (B, L, 2H), (B, L, L)
        pooled = self.bottleneck(self.pooling(states, mask))  # (B, bottleneck)
        speaker_logits = self.speaker_head(pooled, alpha) if self.speaker_head is not None else None
        return NetworkOutput(self.emotion_head(pooled), speaker_logits, pooled, weights)
