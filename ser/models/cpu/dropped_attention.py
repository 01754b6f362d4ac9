"""Dot-product attention with dropout on its weights, for training on CPU.

The fused kernels of ``scaled_dot_product_attention`` take no dropout there; without them it writes a dozen tensors of
all pairs of frames. Here a block of heads and utterances is worked on at a time, small enough for the caches, and the
backward pass computes the weights again rather than keep them, as in Dao et al. 2022 (FlashAttention).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ser.models.cpu.dropout import keep_mask, kept_share

BLOCK_WEIGHTS = 1 << 19  # attention weights in a block


class Block:
    """Weights of some heads of one utterance, and which of them are kept."""

    def __init__(self, query: Tensor, key: Tensor, valid: Tensor, dropout: float, generator: torch.Generator) -> None:
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = (query @ key.mT).to(wide).masked_fill_(~valid, -torch.inf)  # (heads, L, L)
        self.weights = scores.softmax(dim=-1)
        self.keep = keep_mask(scores.shape, dropout, generator)

    def slope(self, gradient: Tensor) -> Tensor:
        """Gradient of the scores by that of the kept weights (heads, L, L)."""
        arriving = gradient.to(self.weights.dtype).mul_(self.keep)
        return torch._softmax_backward_data(arriving, self.weights, -1, self.weights.dtype).to(gradient.dtype)


def places(heads: int, utterances: int, frames: int) -> Iterator[tuple[int, slice]]:
    """Utterance and heads of each block."""
    step = max(1, BLOCK_WEIGHTS // frames**2)
    for utterance in range(utterances):
        for first in range(0, heads, step):
            yield utterance, slice(first, first + step)


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, valid: Tensor, dropout: float) -> Tensor:
        utterances, heads, frames, _ = query.shape
        ctx.seed = int(torch.randint(2**62, ()))  # the same decisions again on the way back
        ctx.dropout = dropout
        generator = torch.Generator().manual_seed(ctx.seed)
        context = torch.empty_like(value)
        for at, some in places(heads, utterances, frames):
            block = Block(query[at, some], key[at, some], valid[at], dropout, generator)
            context[at, some] = block.weights.mul_(block.keep).to(value.dtype) @ value[at, some]
        ctx.save_for_backward(query, key, value, valid)
        return context.mul_(1 / kept_share(dropout))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, valid = ctx.saved_tensors
        utterances, heads, frames, _ = query.shape
        generator = torch.Generator().manual_seed(ctx.seed)
        gradient = gradient * (1 / kept_share(ctx.dropout))
        to_query, to_key, to_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for place in places(heads, utterances, frames):
            block = Block(query[place], key[place], valid[place[0]], ctx.dropout, generator)
            slope = block.slope(gradient[place] @ value[place].mT)  # (heads, L, L)
            to_value[place] = block.weights.mul_(block.keep).to(value.dtype).mT @ gradient[place]
            to_query[place] = slope @ key[place]
            to_key[place] = slope.mT @ query[place]
        return to_query, to_key, to_value, None, None


def dropped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Contexts (B, heads, L, d) of ``softmax(query key^T / sqrt(d))``, its weights dropped, times ``value``.

    Args:
        query: (B, heads, L, d), on CPU.
        key: as the query.
        value: as the query.
        mask: (B, L), True at valid frames; every utterance has one.
        dropout: probability of dropping a weight, above 0 and below 1.
    """
    with torch.autocast("cpu", enabled=False):
        scaled = query * query.shape[-1] ** -0.5
        context: Tensor = _DroppedAttention.apply(scaled, key, value, mask[:, None, :], dropout)
    return context
