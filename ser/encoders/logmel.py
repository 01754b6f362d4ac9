"""Log-mel energies."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import FRAME_SAMPLES, refuse_short


class LogMel:
    """Natural log-mel energies, the encoder that needs no download.

    25 ms windows, one frame per 320 samples and as many frames as HuBERT gives: floor((N - 400) / 320) + 1. The scale
    ``(ln(max(energy, 1e-10)) + 12) / 4`` is fixed, so that a frame depends on its own window alone.

    Args:
        mels: mel bands (D).
        hop_seconds: distance of two frames.
        f_min: lower edge of the lowest band in Hz.
        f_max: upper edge of the highest band in Hz.
        average: consecutive frames that readers average into one; the encoder gives every frame.
    """

    def __init__(
        self,
        mels: int = 80,
        hop_seconds: float = 0.02,
        f_min: float = 20.0,
        f_max: float = 8000.0,
        average: int = 1,
    ) -> None:
        self.dim = mels
        self.hop = round(hop_seconds * SAMPLE_RATE)
        self.average = average
        self.frame_rate = SAMPLE_RATE / self.hop
        self.f_min, self.f_max = f_min, f_max
        self.device = torch.device("cpu")

    def description(self) -> dict[str, Any]:
        """Settings that determine the frames."""
        return {
            "encoder": "logmel",
            "mels": self.dim,
            "hop_samples": self.hop,
            "f_min": self.f_min,
            "f_max": self.f_max,
            "scale": "(ln(max(x,1e-10))+12)/4",
        }

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""
        self.device = torch.device(device)
        self._mel.to(self.device)
        return self

    @cached_property
    def _mel(self) -> nn.Module:
        from torchaudio.transforms import MelSpectrogram  # noqa: PLC0415

        # torch centres the 400-sample window in the 512-sample transform; 56 zeros on either side undo that shift.
        return MelSpectrogram(
            SAMPLE_RATE,
            n_fft=512,
            win_length=FRAME_SAMPLES,
            hop_length=self.hop,
            f_min=self.f_min,
            f_max=self.f_max,
            pad=56,
            n_mels=self.dim,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        ).to(self.device)

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (N,) to frames (L, D).

        Raises:
            UnfitWaveform: a waveform is shorter than one frame.
        """
        refuse_short(waveforms, FRAME_SAMPLES)
        # One by one: padding a batch would cost more than its fewer calls save, and nothing can depend on batch mates.
        return [self._frames(waveform.to(self.device, torch.float32)) for waveform in waveforms]

    def _frames(self, waveform: Tensor) -> Tensor:
        energy = self._mel(waveform).transpose(0, 1)  # (L, D)
        return (energy.clamp(min=1e-10).log() + 12) / 4
