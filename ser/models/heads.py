"""Classifier heads over pooled features."""

from torch import Tensor, nn

from ser.models.cpu.dropout import Dropout
from ser.models.reversal import reverse_gradient


class ClassifierHead(nn.Sequential):
    """Linear(-> H) - ReLU - Dropout - Linear(-> H/2) - ReLU - Dropout - Linear(-> classes)."""

    def __init__(self, input_size: int, classes: int, hidden_size: int = 256, dropout: float = 0.3) -> None:
        super().__init__(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden_size, hidden_size // 2),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden_size // 2, classes),
        )


class SpeakerHead(nn.Module):
    """Adversarial speaker classifier: learns to name the speaker while the network below unlearns it.

    Args:
        pooled: P, the width of the pooled features.
        speakers: S, the number of training speakers.
        hidden_size: width of the first hidden layer.
        dropout: probability.
        normalize: bring every pooled value to mean 0 and variance 1 over the batch first, so that the head learns fast.
        lr_factor: learning rate of the head relative to the network's.
    """

    def __init__(
        self,
        pooled: int,
        speakers: int,
        hidden_size: int = 256,
        dropout: float = 0.3,
        *,
        normalize: bool = False,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(pooled, affine=False) if normalize else nn.Identity()
        self.classifier = ClassifierHead(pooled, speakers, hidden_size, dropout)
        self.lr_factor = lr_factor

    def forward(self, pooled: Tensor, alpha: float | Tensor) -> Tensor:
        """Logits (B, S) of ``pooled`` (B, P), whose gradient comes back times ``-alpha``."""
        logits: Tensor = self.classifier(self.norm(reverse_gradient(pooled, alpha)))
        return logits


def no_speaker_head(pooled: int, speakers: int) -> None:
    """Stand in for :class:`SpeakerHead` where training is not adversarial."""
    return
