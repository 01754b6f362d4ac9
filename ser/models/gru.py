"""The baseline network: bidirectional GRU, matching attention, max pooling."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.data.batching import valid_frames
from ser.models.attention import GeneralAttention, MatchingAttention
from ser.models.layers import BidirectionalRNN, masked_max
from ser.models.network import Network, check_settings


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
