"""Whether a recording holds speech at all; silence and noise have no emotion."""

import threading
from typing import Protocol

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE

NO_SPEECH = "no speech"  # in place of an emotion
_LEAST_FRACTION, _LEAST_SECONDS = 0.1, 0.25  # of a recording: with less speech than the smaller one it has none
_ENERGY_FRAME = 480  # samples: 30 ms
_ENERGY_THRESHOLD = 1e-5  # mean square of a frame: -50 dB relative to full scale


class SpeechGate(Protocol):
    """Measures how much speech a waveform holds."""

    name: str  # shown to the user

    def __call__(self, waveform: Tensor) -> float:
        """Seconds of speech in (N,) samples at 16 kHz."""


def enough_speech(speech_seconds: float, seconds: float) -> bool:
    """Whether a recording of ``seconds`` with so much speech is worth an answer: a tenth of it, or 0.25 s."""
    return speech_seconds >= min(_LEAST_FRACTION * seconds, _LEAST_SECONDS)


class SileroGate:
    """The Silero voice activity detector (snakers4/silero-vad, MIT); its model is part of the package.

    Raises:
        ImportError: the package is not installed (pip install 'ser-lab[live]').
    """

    name = "Silero voice activity detector"

    def __init__(self) -> None:
        from silero_vad import get_speech_timestamps, load_silero_vad  # noqa: PLC0415

        self._find, self._model = get_speech_timestamps, load_silero_vad(onnx=True)
        self._lock = threading.Lock()  # the model keeps its state from chunk to chunk

    @torch.inference_mode()
    def __call__(self, waveform: Tensor) -> float:
        """Seconds of speech in (N,) samples at 16 kHz."""
        with self._lock:
            stretches = self._find(waveform, self._model, threshold=0.5, sampling_rate=SAMPLE_RATE)
        return float(sum(stretch["end"] - stretch["start"] for stretch in stretches)) / SAMPLE_RATE


class EnergyGate:
    """Counts frames of 30 ms above -50 dB of full scale: separates sound from silence, but not speech from noise."""

    name = "energy threshold"

    def __call__(self, waveform: Tensor) -> float:
        """Seconds of sound in (N,) samples at 16 kHz."""
        whole = len(waveform) // _ENERGY_FRAME * _ENERGY_FRAME
        power = waveform[:whole].reshape(-1, _ENERGY_FRAME).float().square().mean(1)  # (N / 480,)
        return float((power > _ENERGY_THRESHOLD).sum()) * _ENERGY_FRAME / SAMPLE_RATE


def best_gate() -> SpeechGate:
    """The Silero detector where it is installed, else the energy threshold; its ``name`` says which."""
    try:
        return SileroGate()
    except ImportError:
        return EnergyGate()


def level(waveform: Tensor) -> float:
    """Root mean square in dB relative to full scale, at least -100."""
    if not len(waveform):
        return -100.0
    return max(-100.0, float(10 * torch.log10(waveform.float().square().mean() + 1e-12)))
