"""Frame normalisation: mean and std of the frames of a corpus, a recording or a stream.

Statistics are those of the encoder's frames, before consecutive ones are averaged (``features.average``): so they come
from the cache's sums, and normalising before or after averaging is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ser.data.cache import FeatureCache
from ser.data.corpus import Utterance

SHRINKAGE_SECONDS = 10.0  # weight of the training statistics beside those of a new speaker's audio
SMALLEST_STD = 1e-5  # a channel of smaller std counts as constant and is not scaled up


def mean_and_std(count: Tensor | float, total: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std in single precision from the number of frames, their sums and sums of squares (double precision)."""
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std < SMALLEST_STD, 1.0, std).float()


@dataclass(frozen=True)
class FrameStatistics:
    """Mean and std that normalise the frames of one recording.

    ``source`` is the name that a Prediction shows: ``none``; ``global`` (the training part's, as in training);
    ``training`` (the training part's, where the network was trained with each speaker's own); ``speaker`` (from this
    speaker's recordings); ``stream`` (running statistics of a stream, starting from the training part's).
    """

    mean: Tensor  # (D,)
    std: Tensor  # (D,), positive
    source: str


def prior_sums(training: FrameStatistics, frames: float) -> tuple[Tensor, Tensor, Tensor]:
    """Number (1,), sums and sums of squares (D,) of so many frames that have the statistics ``training``."""
    mean, std = training.mean.double(), training.std.double()
    return torch.tensor([frames], dtype=torch.float64), frames * mean, frames * (mean.square() + std.square())


class RunningStatistics:
    """Mean and std of a speaker's frames so far, starting from those of the training part.

    The training statistics count as ``prior_seconds`` of audio already heard (the conjugate update of a normal's mean
    and variance with pseudo-counts), so the first windows are not normalised by a second of audio alone.
    """

    def __init__(
        self,
        training: FrameStatistics,
        frame_rate: float,
        prior_seconds: float = SHRINKAGE_SECONDS,
        source: str = "stream",
    ) -> None:
        self.source = source
        self._count, self._total, self._square = prior_sums(training, prior_seconds * frame_rate)

    def update(self, frames: Tensor) -> None:
        """Add frames (L, D) that were not counted before."""
        double = frames.double().cpu()
        self._count = self._count + len(double)
        self._total = self._total + double.sum(0)
        self._square = self._square + double.square().sum(0)

    @property
    def current(self) -> FrameStatistics:
        """Statistics of the start and everything since."""
        return FrameStatistics(*mean_and_std(self._count, self._total, self._square), self.source)


@dataclass(frozen=True)
class Statistics:
    """Mean and std per group of utterances, and which group each speaker belongs to."""

    mean: Tensor  # (R, D); row 0 is that of the training part, for speakers that have no row of their own
    std: Tensor  # (R, D)
    row_of_speaker: dict[str, int]  # row of each speaker; speakers not named use row 0

    def row(self, speaker: str) -> int:
        """The row of ``speaker``."""
        return self.row_of_speaker.get(speaker, 0)


class Normalization(Protocol):
    """Estimates the statistics that a run normalises its frames with."""

    kind: str
    transductive: bool

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Statistics from cached frames; ``everyone`` is the whole split, ``train`` its training part."""


class NoNormalization:
    """Leaves frames as the encoder made them."""

    kind = "none"
    transductive = False

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Mean 0 and std 1."""
        return Statistics(torch.zeros(1, cache.dim), torch.ones(1, cache.dim), {})


class GlobalNormalization:
    """Uses mean and std of all training frames; nothing of validation or test is looked at."""

    kind = "global"
    transductive = False

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """One row, from ``train`` only."""
        return Statistics(*_moments(cache, {utterance.id: 0 for utterance in train}), {})


class SpeakerNormalization:
    """Uses each speaker's own mean and std, from that speaker's unlabelled frames, test speakers included.

    The strongest simple baseline of the field; results that use it are transductive and labelled so. The training
    statistics stay in row 0, where prediction for an unknown speaker starts.
    """

    kind = "speaker"
    transductive = True

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Row 0 from ``train``, then one row per speaker of ``everyone``."""
        row = {speaker: row for row, speaker in enumerate(sorted({u.speaker for u in everyone}))}
        moments = _moments_behind_training(cache, train, {u.id: row[u.speaker] for u in everyone})
        return Statistics(*moments, {speaker: number + 1 for speaker, number in row.items()})


class CorpusNormalization:
    """Uses the mean and std of each corpus of ``data=combined``: of its training part where it has one.

    A corpus that is only tested gives its own unlabelled frames; the result is then transductive and labelled so.
    """

    kind = "corpus"
    transductive = False

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Row 0 from ``train``, then one row per corpus of ``everyone``, which all of its speakers share."""
        row = {corpus: row for row, corpus in enumerate(sorted({u.corpus for u in everyone}))}
        trained = {utterance.corpus for utterance in train}
        self.transductive = not trained >= row.keys()
        used = [*train, *(utterance for utterance in everyone if utterance.corpus not in trained)]
        moments = _moments_behind_training(cache, train, {u.id: row[u.corpus] for u in used})
        return Statistics(*moments, {utterance.speaker: row[utterance.corpus] + 1 for utterance in everyone})


def _moments_behind_training(
    cache: FeatureCache, train: Sequence[Utterance], group_of: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """Mean and std (1 + G, D): those of the training part, then those of each group."""
    parts = _moments(cache, {utterance.id: 0 for utterance in train}), _moments(cache, group_of)
    mean, std = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, std


def _moments(cache: FeatureCache, group_of: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Mean and std (G, D) over all cached frames of each group of utterances."""
    count, total, square = (torch.from_numpy(table) for table in cache.sums(group_of))
    return mean_and_std(count[:, None], total, square)
