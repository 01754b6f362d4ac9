"""Features of the last utterances, so that an adversary sees more of the speakers than one batch shows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SHRINKAGE = 0.1  # of the covariance towards a multiple of the identity


class FeatureMemory(nn.Module):
    """The last features with their labels, and the whitening within emotions that they determine.

    Whitening makes all directions equally loud: speakers often differ in directions of small variance, where a head
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
        members = F.one_hot(emotion, self.emotions).to(features)  # (n, C)
        means = members.T @ features / members.sum(dim=0).clamp_min(1)[:, None]
        rest = features - means[emotion]
        covariance = rest.T @ rest / len(rest)
        scale = covariance.diagonal().mean().clamp_min(1e-12)
        identity = torch.eye(len(covariance), device=features.device)
        factor = torch.linalg.cholesky((1 - _SHRINKAGE) * covariance + _SHRINKAGE * scale * identity)
        return means, torch.linalg.solve_triangular(factor, identity, upper=False).T
