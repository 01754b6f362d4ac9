"""Gradient reversal (Ganin & Lempitsky 2015, "Unsupervised domain adaptation by backpropagation")."""

from typing import Any

import torch
from torch import Tensor


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, alpha: float | Tensor) -> Tensor:
        ctx.alpha = alpha
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.alpha, None


def reverse_gradient(features: Tensor, alpha: float | Tensor) -> Tensor:
    """Return ``features`` unchanged; on the way back their gradient is multiplied by ``-alpha``.

    Args:
        features: any shape.
        alpha: strength, a number or a 0-dimensional tensor; 0 cuts the gradient.
    """
    # mypy: autograd.Function.apply carries no types.
    reversed_features: Tensor = _GradientReversal.apply(features, alpha)
    return reversed_features
