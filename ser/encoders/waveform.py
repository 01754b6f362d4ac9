"""The waveform itself, for networks that hold the whole encoder."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import FRAME_SAMPLES, HOP_SAMPLES, refuse_short


class Waveform:
    """Rows of 320 samples, as many as HuBERT gives frames: floor((N - 400) / 320) + 1; what is left over is cut.

    The cache keeps them in half precision, whose steps are about a two-thousandth of each sample.
    """

    dim = HOP_SAMPLES
    frame_rate = SAMPLE_RATE / HOP_SAMPLES
    average = 1

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def description(self) -> dict[str, Any]:
        """Settings that determine the frames."""
        return {"encoder": "waveform", "row_samples": self.dim}

    def to(self, device: str | torch.device) -> Self:
        """Put rows on ``device`` from now on."""
        self.device = torch.device(device)
        return self

    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to float32 rows (L, 320).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
        """
        refuse_short(waveforms, FRAME_SAMPLES)
        counts = [(len(waveform) - FRAME_SAMPLES) // self.dim + 1 for waveform in waveforms]
        return [
            waveform[: count * self.dim].to(self.device, torch.float32).reshape(count, self.dim)
            for waveform, count in zip(waveforms, counts, strict=True)
        ]
