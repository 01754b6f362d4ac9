"""Classifier heads over pooled features."""

from torch import Tensor, nn

from ser.models.reversal import reverse_gradient


class ClassifierHead(nn.Sequential):
    """Linear(-> H) - ReLU - Dropout - Linear(-> H/2) - ReLU - Dropout - Linear(-> classes)."""

    def __init__(self, input_size: int, classes: int, hidden_size: int = 256, dropout: float = 0.3) -> None:
        super().__init__(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size // 2, classes),
        )


class SpeakerHead(nn.Module):
    """Adversarial speaker classifier: learns to name the speaker while the network below unlearns it.

    Args:
        pooled: P, the width of the pooled features.
        speakers: S, the number of training speakers.
        hidden_size: width of the first hidden layer.
        dropout: probability.
    """

    def __init__(self, pooled: int, speakers: int, hidden_size: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        self.classifier = ClassifierHead(pooled, speakers, hidden_size, dropout)

    def forward(self, pooled: Tensor, alpha: float | Tensor) -> Tensor:
        """Logits (B, S) of ``pooled`` (B, P), whose gradient comes back times ``-alpha``."""
        logits: Tensor = self.classifier(reverse_gradient(pooled, alpha))
        return logits


def no_speaker_head(pooled: int, speakers: int) -> None:
    """Stand in for :class:`SpeakerHead` where training is not adversarial."""
    return
