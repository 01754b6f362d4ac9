"""Samples from anywhere as the encoder takes them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser.data.audio import SAMPLE_RATE, resample_mono
from ser.errors import SerError

LONGEST_SECONDS = 60.0  # attention is quadratic; longer recordings are for timeline(), which bounds memory
SHORTEST_SAMPLES = 400  # 25 ms at 16 kHz: one frame of every encoder

Waveform = NDArray[np.floating] | Tensor
Recording = tuple[Waveform, int]  # samples (N,) or (N, channels), and their rate in Hz


def prepare(waveform: Waveform, sample_rate: int) -> Tensor:
    """Samples of any rate, (N,) or (N, channels), as (N',) float32 at 16 kHz, checked.

    Raises:
        SerError: too short, too long, NaN or infinite samples, another shape, an impossible rate.
    """
    samples = torch.as_tensor(waveform)
    if not samples.is_floating_point():
        raise SerError(
            f"got samples of type {samples.dtype}, expected floating point in [-1, 1]; divide integers by "
            "the largest they can hold."
        )
    if not bool(torch.isfinite(samples).all()):
        raise SerError("the recording holds NaN or infinite samples, expected finite ones; record or export it again.")
    prepared = resample_mono(samples, sample_rate)
    if len(prepared) < SHORTEST_SAMPLES:
        raise SerError(
            f"the recording has {len(prepared)} samples at {SAMPLE_RATE} Hz, expected at least "
            f"{SHORTEST_SAMPLES} ({1000 * SHORTEST_SAMPLES / SAMPLE_RATE:.0f} ms); leave it out."
        )
    if len(prepared) > LONGEST_SECONDS * SAMPLE_RATE:
        raise SerError(
            f"the recording lasts {len(prepared) / SAMPLE_RATE:.1f} s, expected at most "
            f"{LONGEST_SECONDS:.0f} s at once; save it as a file and use a timeline (--window 5)."
        )
    return prepared
