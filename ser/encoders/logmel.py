"""Log-mel energies."""

from typing import Any

from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import FRAME_SAMPLES, Encoder
from ser.errors import check_number

_TRANSFORM_SAMPLES = 512


class LogMel(Encoder):
    """Natural log-mel energies, the encoder that needs no download.

    Windows of 25 ms; with the default hop as many frames as HuBERT gives: floor((N - 400) / 320) + 1. The scale
    ``(ln(max(energy, 1e-10)) + 12) / 4`` is fixed, so that a frame depends on its own window alone.
    """

    def __init__(
        self,
        mels: int = 80,
        hop_seconds: float = 0.02,
        f_min: float = 20.0,
        f_max: float = 8000.0,
        average: int = 1,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(average, max_seconds)
        check_number("features.mels", mels, 1, _TRANSFORM_SAMPLES // 2, whole=True)
        check_number("features.hop_seconds", hop_seconds, 0.001, 1)
        check_number("features.f_min", f_min, 0)
        check_number("features.f_max", f_max, f_min, SAMPLE_RATE // 2, above=True)
        self.hop = round(hop_seconds * SAMPLE_RATE)
        self.frame_rate = SAMPLE_RATE / self.hop
        self._settings = {"mels": mels, "hop_samples": self.hop, "f_min": f_min, "f_max": f_max}
        # torch centres the 400-sample window in the 512-sample transform; 56 zeros on either side undo that shift.
        self.spectrogram = MelSpectrogram(
            SAMPLE_RATE,
            n_fft=_TRANSFORM_SAMPLES,
            win_length=FRAME_SAMPLES,
            hop_length=self.hop,
            f_min=f_min,
            f_max=f_max,
            pad=(_TRANSFORM_SAMPLES - FRAME_SAMPLES) // 2,
            n_mels=mels,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        )

    @property
    def dim(self) -> int:
        """Mel bands."""
        return int(self._settings["mels"])

    def description(self) -> dict[str, Any]:
        """Settings that determine the frames."""
        settings = {"encoder": "logmel", **self._settings, "scale": "(ln(max(x,1e-10))+12)/4"}
        return super().description() | settings

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel frames (B, L, D) and lengths (B,) of waveforms (B, N) of ``lengths`` (B,) samples."""
        energy = self.spectrogram(waveforms).transpose(1, 2)  # (B, L, D)
        return (energy.clamp(min=1e-10).log() + 12) / 4, (lengths - FRAME_SAMPLES) // self.hop + 1
