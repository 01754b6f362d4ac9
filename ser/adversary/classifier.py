"""The adversary of the source: one head behind a gradient reversal."""

from torch import Tensor, nn
from torch.nn import functional as F

from ser.adversary.base import Adversary, AdversaryOutput, reverse_gradient
from ser.errors import check_number
from ser.models.network import ClassifierHead


class SpeakerClassifier(Adversary):
    """Names the training speaker behind a gradient reversal: the head learns the speaker, the network unlearns it.

    Source: Ganin & Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".
    """

    def __init__(
        self,
        pooled: int,
        speakers: int,
        emotions: int,
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
