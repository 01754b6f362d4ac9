"""What adversaries share: their contract, the gradient reversal, a memory of features."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """

    alpha: Tensor  # factor of the gradient that reaches the network, set by the alpha schedule before every step
    refits = False  # whether ``refit`` wants the training part before each validation
    after_training = False  # whether only before that of the last epoch, whose weights the run must keep

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


_SHRINKAGE = 0.1  # of the covariance towards a multiple of the identity


class FeatureMemory(nn.Module):
    """The last features with their labels, and the whitening within emotions that they determine.

    Whitening gives all directions one variance: speakers often differ in directions of small variance, where a head
    that sees the features as they are learns too slowly. The emotion's mean is taken off first, so that forgetting the
    emotion helps against no adversary.

    It holds N = ``rows`` utterances of P = ``size`` values.
    """

    features: Tensor
    speaker: Tensor
    emotion: Tensor
    seen: Tensor

    def __init__(self, size: int, emotions: int, rows: int) -> None:
        super().__init__()
        self.rows, self.emotions = rows, emotions
        self.register_buffer("features", torch.zeros(rows, size))
        self.register_buffer("speaker", torch.zeros(rows, dtype=torch.long))
        self.register_buffer("emotion", torch.zeros(rows, dtype=torch.long))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # utterances so far

    def add(self, features: Tensor, speaker: Tensor, emotion: Tensor) -> None:
        """Remember a batch (B, P) in place of the oldest utterances."""
        place = (torch.arange(len(features), device=features.device) + self.seen) % self.rows
        self.features[place] = features.detach().to(self.features)
        self.speaker[place], self.emotion[place] = speaker, emotion
        self.seen += len(features)

    def __len__(self) -> int:
        return min(int(self.seen), self.rows)

    def stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features (n, P), speaker (n,) and emotion (n,) of the utterances remembered so far."""
        count = len(self)
        return self.features[:count], self.speaker[:count], self.emotion[:count]

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Mean per emotion (C, P), and the matrix (P, P) that whitens what is left of a row of features."""
        features, _, emotion = self.stored()
        means, factor = fit_groups(features, emotion, self.emotions, _SHRINKAGE)
        return means, torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).T


def fit_groups(features: Tensor, group: Tensor, groups: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Mean per group (G, P) of features (n, P), and the Cholesky factor (P, P) of the covariance within groups.

    Of the covariance the fraction ``shrinkage`` is replaced by a multiple of the identity.
    """
    members = F.one_hot(group, groups).to(features)  # (n, G)
    means = members.T @ features / members.sum(dim=0).clamp_min(1)[:, None]
    rest = features - means[group]
    covariance = rest.T @ rest / len(rest)
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(len(covariance)).to(covariance)
    return means, torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * scale * identity)
