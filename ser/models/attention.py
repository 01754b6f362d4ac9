"""Attention over the frames of an utterance; padded frames are never attended to.

The matching attentions take every frame as a query at once: alpha[t, s] = softmax over s of score(h_t, h_s) and
context[t] = sum over s of alpha[t, s] h_s. They differ in the score (Luong et al. 2015, equation 8).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ser.errors import SerError, check_number


class MatchingAttention(nn.Module, ABC):
    """Base of the matching attentions: contexts from the scores of all pairs of frames, which subclasses compute."""

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """Return the scores (B, L, L) of every query frame (dim 1) and key frame (dim 2) of ``states`` (B, L, E)."""

    def forward(self, states: Tensor, mask: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the contexts (B, L, E) of states (B, L, E) and, when asked for, the weights (B, L, L).

        The mask (B, L) is True at valid frames.
        """
        scores = self.scores(states).masked_fill(~mask.unsqueeze(1), -torch.inf)  # (B, L, L)
        weights = scores.softmax(dim=-1)
        return weights.to(states.dtype) @ states, weights if return_weights else None


class GeneralAttention(MatchingAttention):
    """score(h_t, h_s) = W h_t . h_s, without a bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query: nn.Module = nn.Linear(size, size, bias=False)

    def scores(self, states: Tensor) -> Tensor:
        """Return the products of the projected queries with the keys, not scaled."""
        return self.query(states) @ states.transpose(1, 2)

    def forward(self, states: Tensor, mask: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return contexts (B, L, E) and, when asked for, weights (B, L, L); else no scores are stored."""
        if return_weights:
            return super().forward(states, mask, return_weights)
        keys = states.unsqueeze(1)  # (B, 1, L, E), one head
        context = F.scaled_dot_product_attention(
            self.query(states).unsqueeze(1), keys, keys, attn_mask=mask[:, None, None, :], scale=1.0
        )
        return context.squeeze(1), None


class DotAttention(GeneralAttention):
    """score(h_t, h_s) = h_t . h_s; it has no parameters and ignores ``size``."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.query = nn.Identity()


class TanhGeneralAttention(MatchingAttention):
    """``general2``: score(h_t, h_s) = tanh((W h_t + b) . h_s), so no frame outweighs another by more than e^2."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size)

    def scores(self, states: Tensor) -> Tensor:
        """Return tanh of the products of the projected queries with the keys."""
        return torch.tanh(self.query(states) @ states.transpose(1, 2))


class ConcatAttention(MatchingAttention):
    """score(h_t, h_s) = v . tanh(W [h_s; h_t]).

    W [h_s; h_t] is the sum of a key part and a query part, each computed once per frame. Their sum over all pairs would
    be (B, L, L, size); it is computed for ``channels`` at a time, and again in the backward pass.
    """

    channels = 32

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pair = nn.Linear(2 * size, size, bias=False)
        self.vector = nn.Linear(size, 1, bias=False)

    def scores(self, states: Tensor) -> Tensor:
        """Return the sum over slices of channels of v . tanh(key part + query part)."""
        key_weight, query_weight = self.pair.weight.chunk(2, dim=1)  # (size, size) each
        slices = zip(
            F.linear(states, query_weight).split(self.channels, dim=-1),
            F.linear(states, key_weight).split(self.channels, dim=-1),
            self.vector.weight.squeeze(0).split(self.channels),
            strict=True,
        )
        recompute = torch.is_grad_enabled()
        parts = [
            checkpoint(_concat_scores, *part, use_reentrant=False, preserve_rng_state=False)
            if recompute
            else _concat_scores(*part)
            for part in slices
        ]
        return torch.stack(parts).sum(dim=0)  # (B, L, L)


def _concat_scores(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """Return the scores (B, L, L) of one slice of channels: query and key (B, L, c), vector (c,)."""
    pairs = torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))  # (B, L, L, c)
    return pairs @ vector.to(pairs.dtype)


class MultiHeadSelfAttention(nn.Module):
    """Scaled dot-product self-attention with residual and LayerNorm (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, size: int, heads: int = 8, dropout: float = 0.3) -> None:
        super().__init__()
        check_number("model.heads", heads, 1, whole=True)
        if size % heads:
            raise SerError(f"model.heads={heads} was given, expected a divisor of the {size} channels.")
        # Written out: nn.MultiheadAttention switches to a fused kernel for inference that cannot be exported.
        self.heads = heads
        self.project = nn.Linear(size, 3 * size)
        self.combine = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(size)

    def forward(self, states: Tensor, mask: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend within (B, L, E) over the frames of ``mask`` (B, L): (B, L, E), head-averaged weights (B, L, L)."""
        parts = self.project(states).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, heads, E / heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, L, E / heads) each
        valid = mask[:, None, None, :]  # (B, 1, 1, L)
        weights = None
        if return_weights:
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            every_head = scores.masked_fill(~valid, -torch.inf).softmax(dim=-1)  # (B, heads, L, L)
            context = self.dropout(every_head).to(value.dtype) @ value
            weights = every_head.mean(dim=1)
        else:
            dropped = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=valid, dropout_p=dropped)
        context = self.combine(context.transpose(1, 2).flatten(2))  # (B, L, E)
        return self.norm(states + context), weights
