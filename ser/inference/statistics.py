"""Which mean and deviation normalise the frames of a recording that was not in any training run."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_DEVIATION = 1e-5  # a constant channel stays constant instead of blowing up, as in training


@dataclass(frozen=True)
class FrameStatistics:
    """Mean and deviation (D,) of frames, and where they come from.

    Attributes:
        mean: (D,).
        std: (D,), positive.
        source: what a Prediction calls them: ``none``; ``global`` (the training part's, as in training); ``training``
            (the training part's, where the network was trained with each speaker's own); ``speaker`` (from this
            speaker's recordings); ``stream`` (running, of a stream, from the training part's on).
    """

    mean: Tensor
    std: Tensor
    source: str

    @classmethod
    def of_frames(cls, recordings: Iterable[Tensor], source: str = "speaker") -> "FrameStatistics":
        """Over all frames of several recordings (L, D) of one speaker, in double precision as in training."""
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for frames in recordings:
            double = frames.double().cpu()
            count += len(double)
            total, square = total + double.sum(0), square + double.square().sum(0)
        return _from_sums(count, total, square, source)


class RunningStatistics:
    """Mean and deviation of a stream's frames so far, starting from those of the training part.

    The training statistics count as ``prior_seconds`` of audio already heard (the conjugate update of a normal's mean
    and variance with pseudo-counts), so the first windows are not normalised by a second of somebody's voice and the
    speaker takes over as the stream goes on.

    Args:
        training: where to start.
        frame_rate: frames per second.
        prior_seconds: weight of the start.
    """

    def __init__(self, training: FrameStatistics, frame_rate: float, prior_seconds: float = 10.0) -> None:
        self._count = prior_seconds * frame_rate
        mean, std = training.mean.double(), training.std.double()
        self._total = self._count * mean
        self._square = self._count * (mean.square() + std.square())

    def update(self, frames: Tensor) -> None:
        """Take in frames (L, D) that were not counted before."""
        double = frames.double().cpu()
        self._count += len(double)
        self._total = self._total + double.sum(0)
        self._square = self._square + double.square().sum(0)

    @property
    def current(self) -> FrameStatistics:
        """Statistics of the start and everything since."""
        return _from_sums(self._count, self._total, self._square, "stream")


def _from_sums(count: float, total: Tensor, square: Tensor, source: str) -> FrameStatistics:
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std < SMALLEST_DEVIATION, 1.0, std)
    return FrameStatistics(mean.float(), std.float(), source)
