"""Losses over emotion logits, with class indices or soft labels as targets, and the norm penalty."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.errors import SerError, check_number


class AuxiliaryEmotions(nn.Module):
    """A second head, for utterances of emotions outside the task, too; used in training only.

    What sets those emotions apart in the voice helps to tell the task's own: on RAVDESS its four others are more than
    half of the recordings.
    """

    def __init__(self, pooled_size: int, emotions: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.head = nn.Linear(pooled_size, emotions)

    def forward(self, pooled: Tensor, emotion: Tensor) -> Tensor:
        """Cross entropy, without its weight, of pooled features (B, P) whose emotions (B,) are of all classes."""
        return F.cross_entropy(self.head(pooled), emotion)


class EmotionLoss(nn.Module, ABC):
    """Base of the emotion losses: the mean over a batch of the loss per utterance, optionally with class weights.

    With class weights it is the weighted mean sum_i w_i loss_i / sum_i w_i, where w_i is the weight of the class of
    utterance i, or the average weight under its soft label.
    """

    # Not saved: every run sets it from the counts of its training part.
    class_weights: Tensor | None

    def __init__(self, class_weighting: bool = False) -> None:
        super().__init__()
        self.class_weighting = class_weighting
        self.register_buffer("class_weights", None, persistent=False)

    def fit_class_counts(self, counts: Sequence[int] | Tensor) -> None:
        """Set the class weights from the number of training utterances of each class (C,).

        A class without utterances gets weight 0. Does nothing when ``class_weighting`` is off.
        """
        if not self.class_weighting:
            return
        numbers = torch.as_tensor(counts, dtype=torch.float32)
        weights = numbers.sum() / (len(numbers) * numbers)
        weights[numbers == 0] = 0.0
        self.class_weights = weights

    @abstractmethod
    def utterance_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the losses (B,) of ``logits`` (B, C), multiplied by the class weights."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C) for class indices (B,) or soft labels (B, C) whose rows sum to 1.

        Raises:
            SerError: class weighting is on and ``fit_class_counts`` was never called.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = self.utterance_losses(logits, target)  # (B,)
        if not self.class_weighting:
            return losses.mean()
        weights = self._weights(logits)
        mass = weights[target] if target.ndim == 1 else target.to(logits.dtype) @ weights  # (B,)
        return losses.sum() / mass.sum().clamp_min(torch.finfo(logits.dtype).tiny)

    def _weights(self, logits: Tensor) -> Tensor:
        """Return the class weights (C,) on the device of ``logits``; ones where weighting is off."""
        if not self.class_weighting:
            return logits.new_ones(logits.shape[-1])
        if self.class_weights is None:
            raise SerError(
                "class weighting is on but the loss has no class counts; call fit_class_counts with the counts of the "
                "training part first, or set class_weighting=false."
            )
        return self.class_weights.to(logits)


class CrossEntropy(EmotionLoss):
    """Cross entropy; ``label_smoothing`` in [0, 1) spreads that fraction of each label over all classes."""

    def __init__(self, label_smoothing: float = 0.0, class_weighting: bool = False) -> None:
        super().__init__(class_weighting)
        check_number("loss.label_smoothing", label_smoothing, 0, 0.999)
        self.label_smoothing = label_smoothing

    def utterance_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return -sum over classes of w_c * label_c * log p_c."""
        target = target if target.ndim == 1 else target.to(logits.dtype)
        return F.cross_entropy(
            logits, target, weight=self._weights(logits), label_smoothing=self.label_smoothing, reduction="none"
        )


class FocalLoss(EmotionLoss):
    """-alpha * (1 - p)^gamma * log p of the labelled class (Lin et al. 2017, equation 5, one alpha for all classes)."""

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, class_weighting: bool = False) -> None:
        super().__init__(class_weighting)
        check_number("loss.alpha", alpha, 0, above=True)
        check_number("loss.gamma", gamma, 0)
        self.alpha, self.gamma = alpha, gamma

    def utterance_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return -sum over classes of w_c * label_c * alpha * (1 - p_c)^gamma * log p_c."""
        log_probability = logits.log_softmax(dim=-1)  # (B, C)
        # The floor keeps the gradient finite for gamma < 1 once p is 1.
        miss = (-torch.expm1(log_probability)).clamp_min(torch.finfo(logits.dtype).eps)
        losses = -self.alpha * miss.pow(self.gamma) * log_probability  # (B, C)
        labels = F.one_hot(target, logits.shape[-1]) if target.ndim == 1 else target
        return (labels.to(logits.dtype) * self._weights(logits) * losses).sum(dim=-1)


def l2_norms(module: nn.Module) -> Tensor:
    """Return the sum of the L2 norms (not squared) of the weight matrices: all parameters of two or more dimensions.

    Differentiable, with gradient 0 at a matrix of zeros; 0 for a module without matrices.
    """
    norms = [torch.linalg.vector_norm(weight) for weight in module.parameters() if weight.ndim >= 2]
    return torch.stack(norms).sum() if norms else torch.zeros(())
