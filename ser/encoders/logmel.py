"""Log-mel energies."""

from typing import Any

from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from ser.data.audio import SAMPLE_RATE
from ser.encoders.base import FRAME_SAMPLES, Encoder
from ser.errors import SerError

_TRANSFORM_SAMPLES = 512


class LogMel(Encoder):
    """Natural log-mel energies, the encoder that needs no download.

    Windows of 25 ms; with the default hop as many frames as HuBERT gives: floor((N - 400) / 320) + 1. The scale
    ``(ln(max(energy, 1e-10)) + 12) / 4`` is fixed, so that a frame depends on its own window alone.

    Raises:
        SerError: a setting is out of range.
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
        if not 1 <= mels <= _TRANSFORM_SAMPLES // 2:
            raise SerError(f"features.mels={mels} was given, expected 1 to {_TRANSFORM_SAMPLES // 2}; 80 is usual.")
        if not 0.001 <= hop_seconds <= 1:
            raise SerError(f"features.hop_seconds={hop_seconds} was given, expected 0.001 to 1 second; 0.02 is usual.")
        if not 0 <= f_min < f_max <= SAMPLE_RATE / 2:
            raise SerError(
                f"features.f_min={f_min} and f_max={f_max} were given, expected 0 <= f_min < f_max <= "
                f"{SAMPLE_RATE // 2} Hz; 20 and 8000 are usual."
            )
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
