"""What an encoder is, and which waveforms it refuses."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE
from ser.errors import SerError

FRAME_SAMPLES, HOP_SAMPLES = 400, 320  # 25 ms every 20 ms, in samples at 16 kHz


class UnfitWaveform(SerError):  # noqa: N818 - says what is wrong with the one waveform and nothing else
    """A waveform that no frame can be made of; others may be fine."""


class Encoder(Protocol):
    """Turns 16 kHz mono waveforms into frames, each waveform independent of its batch mates.

    Attributes:
        average: consecutive frames that readers of the frames average into one (ser.data.batching.average_frames);
            the encoder itself gives every frame.
    """

    average: int

    @property
    def dim(self) -> int:
        """Values a frame (D)."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""

    def description(self) -> dict[str, Any]:
        """Plain settings and weight hash that determine the frames; they make the cache fingerprint."""

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""

    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 frames (L, D) on the encoder's device.

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
        """


def refuse_short(waveforms: Sequence[Tensor], samples: int) -> None:
    """Raise UnfitWaveform for the first waveform (N,) of fewer than ``samples`` samples."""
    for waveform in waveforms:
        if len(waveform) < samples:
            given, wanted = (
                f"{count} samples ({1000 * count / SAMPLE_RATE:.1f} ms)" for count in (len(waveform), samples)
            )
            raise UnfitWaveform(f"the waveform has {given}, expected at least one frame of {wanted}; leave it out.")
