"""Statistical independence of features and speaker within an emotion, without any head."""

import torch
from torch import Tensor

from ser.adversary.base import Adversary, AdversaryOutput, FeatureMemory, reverse_gradient
from ser.errors import check_number

_BANDWIDTHS = (0.25, 1.0, 4.0)  # of the Gaussian kernels, times the mean squared distance


class KernelIndependence(Adversary):
    """Makes utterances of one speaker no more alike than those of two, within each emotion.

    The loss is the mean kernel value between utterances of the same emotion and speaker, less that between utterances
    of the same emotion and different speakers: a Hilbert-Schmidt independence criterion whose kernel on the labels is
    balanced over the two kinds of pairs. One side of a pair is the batch, the other the remembered utterances; features
    are whitened within the emotion.

    Source: Gretton et al. 2005, "Measuring statistical dependence with Hilbert-Schmidt norms".
    """

    def __init__(self, pooled: int, speakers: int, emotions: int, *, memory: int = 512, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_number("adversarial.memory", memory, 1, whole=True)
        self.memory = FeatureMemory(pooled, emotions, memory)

    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return the difference of the two means; its gradient is multiplied by ``alpha``."""
        features, speakers, emotions = (part.clone() for part in self.memory.stored())  # before this batch is in it
        self.memory.add(pooled, speaker, emotion)
        means, matrix = self.memory.whitening()
        own = (reverse_gradient(pooled.float(), -self.alpha) - means[emotion]) @ matrix  # (B, P)
        other = (features - means[emotions]) @ matrix  # (N, P)
        distance = torch.cdist(own, other).square()  # (B, N)
        scale = distance.detach().mean()
        kernel = torch.stack([(-distance / (scale * width)).exp() for width in _BANDWIDTHS]).mean(dim=0)
        alike = emotion[:, None] == emotions[None, :]
        same = alike & (speaker[:, None] == speakers[None, :])
        return AdversaryOutput(_mean(kernel, same) - _mean(kernel, alike & ~same), None)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
