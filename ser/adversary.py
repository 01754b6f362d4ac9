"""Adversaries: what removes the speaker from the pooled features while a network trains.

A new kind of speaker removal is one class here and one file in conf/adversarial; it then works with every network.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.errors import check_number
from ser.models.network import ClassifierHead, Network


class AdversaryOutput(NamedTuple):
    """What an adversary returns for a training batch.

    Attributes:
        loss: scalar, without its weight in the total loss.
        speaker_logits: (B, S) over the training speakers, for the accuracy in the log; None where there are none.
    """

    loss: Tensor
    speaker_logits: Tensor | None


class Adversary(nn.Module, ABC):
    """Base of the adversaries; used in training only, since validation and test speakers are unseen.

    Subclasses define ``forward``. One that must change the pooled features in prediction too gives the network a
    ``LinearErasure`` in ``attach`` and sets its buffers during training.

    Args:
        weight: of the loss in the total loss.
        lr_factor: learning rate of the adversary's parameters relative to the optimizer's.

    Attributes:
        alpha: strength of the gradient reversal, set by the alpha schedule before every step.

    Raises:
        SerError: a number is out of range.
    """

    alpha: Tensor

    def __init__(self, weight: float, lr_factor: float = 1.0) -> None:
        super().__init__()
        check_number("adversarial_weight", weight, 0)
        check_number("adversarial.lr_factor", lr_factor, 0, above=True)
        self.weight, self.lr_factor = weight, lr_factor
        self.register_buffer("alpha", torch.zeros(()))

    def attach(self, network: Network) -> None:
        """Prepare the network that is trained; called once, before training."""

    @abstractmethod
    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return the loss of a training batch.

        Args:
            pooled: (B, P) pooled features, with their gradient.
            speaker: (B,) index among the training speakers.
            emotion: (B,) index of the emotion.
        """


class SpeakerClassifier(Adversary):
    """Names the training speaker behind a gradient reversal: the head learns the speaker, the network unlearns it.

    Source: Ganin & Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".

    Args:
        pooled: P, width of the pooled features.
        speakers: S, number of training speakers.
        hidden_size: width of the first hidden layer.
        dropout: probability.
        normalize: scale every pooled value to mean 0 and variance 1 over the batch first, so that the head learns fast.
        weight: of the loss in the total loss.
        lr_factor: learning rate of the head relative to the optimizer's.
    """

    def __init__(
        self,
        pooled: int,
        speakers: int,
        *,
        hidden_size: int = 256,
        dropout: float = 0.3,
        normalize: bool = False,
        weight: float = 0.05,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__(weight, lr_factor)
        check_number("adversarial.hidden_size", hidden_size, 2, whole=True)  # the head halves it
        check_number("adversarial.dropout", dropout, 0, 1)
        self.norm = nn.BatchNorm1d(pooled, affine=False) if normalize else None
        self.classifier = ClassifierHead(pooled, speakers, hidden_size, dropout)

    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return the cross entropy of the speaker; its gradient reaches ``pooled`` times ``-alpha``."""
        features = reverse_gradient(pooled, self.alpha)
        if self.norm is not None:
            # One utterance has no variance over the batch; it is scaled by the running statistics.
            alone = self.training and len(features) == 1
            features = (
                F.batch_norm(features, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
                if alone
                else self.norm(features)
            )
        logits: Tensor = self.classifier(features)  # (B, S)
        return AdversaryOutput(F.cross_entropy(logits, speaker), logits)


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, alpha: Tensor) -> Tensor:
        ctx.alpha = alpha.clone()  # the schedule may change alpha in place before the backward pass
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.alpha, None


def reverse_gradient(features: Tensor, alpha: Tensor) -> Tensor:
    """Return ``features`` unchanged; their gradient is multiplied by ``-alpha``.

    Args:
        features: any shape.
        alpha: strength, 0-dimensional; 0 cuts the gradient.
    """
    reversed_features: Tensor = _GradientReversal.apply(features, alpha)
    return reversed_features
