"""Closed-form removal: least-squares concept erasure of the training speakers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.adversary.base import Adversary, AdversaryOutput, Features, fit_groups
from ser.errors import SerError, check_number
from ser.models.network import LinearErasure, Network
from ser.models.statistics import fit_logistic

_SMALLEST = 1e-4  # correlation of a direction with the speakers: below, there is nothing to erase
_LARGEST_FRACTION = 0.25  # of the F values; more directions would take most of the emotion, too


class Erasure(Adversary):
    """Erases the directions that linearly tell the training speakers apart, changing the features least.

    Before each validation the erasure is fitted on the training part, with the network in evaluation mode; during the
    next epoch it stays as it is, so the emotion head learns on erased statistics. It acts before a bottleneck, where
    there are more values than speakers. What is not linear (speakers that differ in their variances, say) stays.

    Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form".
    """

    refits = True

    def __init__(
        self,
        pooled: int,
        speakers: int,
        emotions: int,
        *,
        within_emotion: bool = True,
        shrinkage: float = 0.1,
        rank: int | None = None,
        weight: float = 0.0,
    ) -> None:
        super().__init__(weight)
        check_number("adversarial.shrinkage", shrinkage, 0, 1, above=True)
        if rank is not None:
            check_number("adversarial.rank", rank, 1, whole=True)
        self.speakers, self.emotions = speakers, emotions
        self.within_emotion, self.shrinkage, self.rank = within_emotion, shrinkage, rank
        self.erase: list[LinearErasure] = []  # in a list, so that the network alone owns it

    def attach(self, network: Network) -> None:
        """Give the network an erasure that does nothing yet."""
        size = network.statistics_size
        usual = min(self.speakers - 1, int(_LARGEST_FRACTION * size))
        network.erase = LinearErasure(size, max(1, min(self.rank or usual, self.speakers - 1, size)))
        self.erase = [network.erase]

    def refit(self, batches: Iterable[Features]) -> None:
        """Fit the network's erasure on the training part."""
        statistics, speaker, emotion = (torch.cat(parts) for parts in zip(*batches, strict=True))
        groups = emotion if self.within_emotion else torch.zeros_like(emotion)
        (erase,) = self.erase
        for name, value in fit_erasure(statistics, speaker, groups, erase.rank, self.shrinkage).items():
            getattr(erase, name).copy_(value)

    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return a loss of zero."""
        return AdversaryOutput(pooled.new_zeros(()), None)


class ErasureAfterTraining(Erasure):
    """Erases once, after the last epoch; the emotion head stays or is fitted anew on what is left.

    Training is that of the network without removal. With ``answer``, everything that the head does not read is erased
    too: the pooled features then hold the answer (one value fewer than there are emotions) and nothing else.
    """

    after_training = True

    def __init__(
        self,
        pooled: int,
        speakers: int,
        emotions: int,
        *,
        answer: bool = True,
        strength: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(pooled, speakers, emotions, **settings)
        if strength is not None:
            check_number("adversarial.strength", strength, 0, above=True)
        self.answer, self.strength = answer, strength
        self.head: list[nn.Linear] = []  # in a list, as ``erase``

    def attach(self, network: Network) -> None:
        """Give the network an erasure that does nothing yet."""
        super().attach(network)
        if not isinstance(network.head, nn.Linear) or network.pooled_size != network.statistics_size:
            raise SerError(
                f"adversarial=erasure_after was given a {type(network).__name__} with a bottleneck or a deep head, "
                "expected one linear layer on the pooled statistics; use model=statistics_mlp or model.bottleneck=null."
            )
        self.head = [network.head]
        self.kept_rank = self.erase[0].rank
        if self.answer:
            network.erase = LinearErasure(network.statistics_size, network.statistics_size)
            self.erase = [network.erase]

    def refit(self, batches: Iterable[Features]) -> None:
        """Fit the erasure and, where asked for, the head on the erased statistics of the training part."""
        statistics, speaker, emotion = (torch.cat(parts) for parts in zip(*batches, strict=True))
        groups = emotion if self.within_emotion else torch.zeros_like(emotion)
        found = fit_erasure(statistics, speaker, groups, self.kept_rank, self.shrinkage)
        mean, removed = found["mean"], found["read"] @ found["write"]  # (F,), (F, F)
        if self.strength is not None:
            fit_logistic(self.head[0], statistics - (statistics - mean) @ removed, emotion, self.strength)
        if self.answer:
            weight = self.head[0].weight - self.head[0].weight.mean(dim=0)  # (C, F), without what all emotions share
            left = (torch.eye(len(mean)).to(mean) - removed) @ torch.linalg.pinv(weight, rtol=1e-5) @ weight
            found = {"mean": mean, "read": torch.eye(len(mean)).to(mean) - left, "write": torch.eye(len(mean)).to(mean)}
        for name, value in found.items():
            getattr(self.erase[0], name).copy_(value)


def fit_erasure(statistics: Tensor, speaker: Tensor, groups: Tensor, rank: int, shrinkage: float) -> dict[str, Tensor]:
    """The linear map after which no linear function of the statistics tells speakers of the same group apart.

    With the covariance ``C = L L^T`` within groups and the differences ``D`` of the speakers' means from the mean of
    their group, weighted by how many utterances they rest on, the directions are the left singular vectors ``U`` of
    ``L^-1 D``, read by ``L^-T U`` and written by ``U^T L^T``. Of the covariance the fraction ``shrinkage`` is replaced
    by a multiple of the identity.

    Statistics are (n, F), speaker and group, such as the emotion, are indices (n,). The result is ``mean`` (F,),
    ``read`` (F, K) and ``write`` (K, F) of a ``LinearErasure``; K is ``rank``, with zeros where there are fewer
    directions.
    """
    values = statistics.double()  # small directions count
    means, factor = fit_groups(values, groups, int(groups.max()) + 1, shrinkage)
    centred = values - means[groups]  # (n, F)
    named = F.one_hot(speaker).to(values)  # (n, S)
    counts = named.sum(dim=0).clamp_min(1)
    differences = centred.T @ named / (len(values) * counts).sqrt()  # (F, S)
    directions, strength, _ = torch.linalg.svd(
        torch.linalg.solve_triangular(factor, differences, upper=False), full_matrices=False
    )
    directions = F.pad(directions * (strength > _SMALLEST), (0, max(0, rank - directions.shape[1])))[:, :rank]  # (F, K)
    read = torch.linalg.solve_triangular(factor.T, directions, upper=True)
    return {name: value.float() for name, value in
            {"mean": values.mean(dim=0), "read": read, "write": directions.T @ factor.T}.items()}  # fmt: skip
