"""Whether a window holds speech at all; silence has no emotion."""

import threading
from typing import Protocol

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE

_ENERGY_FRAME = 480  # samples: 30 ms


class SpeechGate(Protocol):
    """Tells how much speech a waveform holds.

    Attributes:
        name: shown to the user.
    """

    name: str

    def __call__(self, waveform: Tensor) -> float:
        """Seconds of speech in (N,) samples at 16 kHz."""


class SileroGate:
    """The Silero voice activity detector (snakers4/silero-vad, MIT), whose model lies in its wheel.

    Args:
        threshold: least probability of speech.

    Raises:
        ImportError: the package is not installed (pip install 'ser[live]').
    """

    name = "Silero voice activity detector"

    def __init__(self, threshold: float = 0.5) -> None:
        from silero_vad import get_speech_timestamps, load_silero_vad  # noqa: PLC0415

        self.threshold = threshold
        self._find, self._model = get_speech_timestamps, load_silero_vad(onnx=True)
        self._turn = threading.Lock()  # the model carries its state from chunk to chunk

    @torch.inference_mode()
    def __call__(self, waveform: Tensor) -> float:
        """See SpeechGate."""
        with self._turn:
            stretches = self._find(waveform, self._model, threshold=self.threshold, sampling_rate=SAMPLE_RATE)
        return float(sum(stretch["end"] - stretch["start"] for stretch in stretches)) / SAMPLE_RATE


class EnergyGate:
    """Counts stretches of 30 ms louder than a threshold: tells sound from silence, but not speech from noise.

    Args:
        threshold: dB relative to full scale.
    """

    name = "energy threshold"

    def __init__(self, threshold: float = -50.0) -> None:
        self.threshold = threshold

    def __call__(self, waveform: Tensor) -> float:
        """See SpeechGate."""
        whole = len(waveform) // _ENERGY_FRAME * _ENERGY_FRAME
        loud = [level(frame) > self.threshold for frame in waveform[:whole].reshape(-1, _ENERGY_FRAME)]
        return sum(loud) * _ENERGY_FRAME / SAMPLE_RATE


def best_gate() -> SpeechGate:
    """The Silero detector where it is installed, else the energy threshold; its ``name`` says which."""
    try:
        return SileroGate()
    except ImportError:
        return EnergyGate()


def level(waveform: Tensor) -> float:
    """Root mean square in dB relative to full scale, -100 at least."""
    if not len(waveform):
        return -100.0
    return max(-100.0, float(10 * torch.log10(waveform.float().square().mean() + 1e-12)))
