"""The contract of every adversary, and the gradient reversal."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ser.errors import check_number
from ser.models.network import Network

Features = tuple[Tensor, Tensor, Tensor]  # of a batch: statistics (B, F), speaker (B,), emotion (B,)


class AdversaryOutput(NamedTuple):
    """What an adversary returns for a training batch."""

    loss: Tensor  # scalar, without its weight in the total loss
    speaker_logits: Tensor | None  # (B, S) over the training speakers, for the log; None where there are none


class Adversary(nn.Module, ABC):
    """Base of the adversaries; used in training only, since validation and test speakers are unseen.

    Subclasses define ``forward``; they are made with the sizes ``(pooled, speakers, emotions)``, P, S and C, and with
    the settings that conf/adversarial explains. One that must change the features in prediction too gives the network
    a ``LinearErasure`` in ``attach`` and fits it in ``refit``.

    Attributes:
        alpha: factor of the gradient that reaches the network, set by the alpha schedule before every step.
        refits: whether ``refit`` wants the training part before each validation.
        after_training: whether only before the validation of the last epoch, whose weights the run must keep.

    Raises:
        SerError: a number is out of range.
    """

    alpha: Tensor
    refits = False
    after_training = False

    def __init__(self, weight: float, lr_factor: float = 1.0) -> None:
        super().__init__()
        check_number("adversarial_weight", weight, 0)
        check_number("adversarial.lr_factor", lr_factor, 0, above=True)
        self.weight, self.lr_factor = weight, lr_factor
        self.register_buffer("alpha", torch.zeros(()))

    def attach(self, network: Network) -> None:
        """Prepare the network that is trained; called once, before training."""

    def refit(self, batches: Iterable[Features]) -> None:
        """Fit to the whole training part, seen by the network in evaluation mode without gradients."""

    @abstractmethod
    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return the loss of pooled features (B, P) with their gradient, speakers (B,) and emotions (B,) of a batch."""


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, alpha: Tensor) -> Tensor:
        ctx.alpha = alpha.clone()  # the schedule may change alpha in place before the backward pass
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.alpha, None


def reverse_gradient(features: Tensor, alpha: Tensor) -> Tensor:
    """Return ``features`` unchanged; their gradient is multiplied by ``-alpha`` (0-dimensional; 0 cuts it)."""
    reversed_features: Tensor = _GradientReversal.apply(features, alpha)
    return reversed_features
