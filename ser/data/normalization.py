"""Frame normalisation: whose mean and deviation are taken off whose frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ser.data.cache import FeatureCache
from ser.data.corpus import Utterance

SMALLEST_DEVIATION = 1e-5  # a constant channel stays constant instead of blowing up


@dataclass(frozen=True)
class Statistics:
    """Rows of mean and deviation, and which row each speaker uses.

    Attributes:
        mean: (R, D); row 0 always comes from the training part and serves speakers that have no row of their own.
        std: (R, D).
        row_of_speaker: row of each speaker; speakers not named use row 0.
    """

    mean: Tensor
    std: Tensor
    row_of_speaker: dict[str, int]

    def row(self, speaker: str) -> int:
        """The row of ``speaker``."""
        return self.row_of_speaker.get(speaker, 0)


class Normalization(Protocol):
    """Estimates the statistics that a run normalises its frames with."""

    kind: str
    transductive: bool

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Estimate from cached frames; ``everyone`` is the whole split, ``train`` its training part."""


class NoNormalization:
    """Frames as the encoder made them."""

    kind = "none"
    transductive = False

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Mean 0 and deviation 1."""
        return Statistics(torch.zeros(1, cache.dim), torch.ones(1, cache.dim), {})


class GlobalNormalization:
    """Mean and deviation of all training frames; nothing of validation or test is looked at."""

    kind = "global"
    transductive = False

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """One row, from ``train`` only."""
        mean, std = moments(cache, train)
        return Statistics(mean[None], std[None], {})


class SpeakerNormalization:
    """Each speaker's own mean and deviation, from that speaker's unlabelled frames, test speakers included.

    The strongest simple baseline of the field; results that use it are transductive and say so. The training
    statistics stay in row 0, where prediction for an unknown speaker starts.
    """

    kind = "speaker"
    transductive = True

    def fit(self, cache: FeatureCache, train: Sequence[Utterance], everyone: Sequence[Utterance]) -> Statistics:
        """Row 0 from ``train``, then one row a speaker of ``everyone``."""
        speakers = sorted({utterance.speaker for utterance in everyone})
        rows = [moments(cache, train)]
        rows += [moments(cache, [u for u in everyone if u.speaker == speaker]) for speaker in speakers]
        mean, std = (torch.stack(column) for column in zip(*rows, strict=True))
        return Statistics(mean, std, {speaker: row for row, speaker in enumerate(speakers, start=1)})


def moments(cache: FeatureCache, utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (D,) over all frames of ``utterances``, from the sums that the cache keeps."""
    count, total, squares = cache.sums([utterance.id for utterance in utterances])
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    std[std < SMALLEST_DEVIATION] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
