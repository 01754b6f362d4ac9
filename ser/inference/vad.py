"""Where in a recording there is speech, and what of it models are given; silence and noise have no emotion."""

import threading
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ser.data.audio import SAMPLE_RATE

NO_SPEECH = "no speech"  # in place of an emotion
_LEAST_FRACTION, _LEAST_SECONDS = 0.1, 0.25  # of a recording: with less speech than the smaller one it has none
_BESIDE = 1.5  # seconds of a pause that are heard before and after speech; those of RAVDESS have about one
_ENERGY_FRAME = 480  # samples: 30 ms
_ENERGY_THRESHOLD = 1e-5  # mean square of a frame: -50 dB relative to full scale


class SpeechGate(Protocol):
    """Finds the speech in a waveform."""

    name: str  # shown to the user

    def __call__(self, waveform: Tensor) -> list[tuple[int, int]]:
        """First sample and end of each stretch of speech in (N,) samples at 16 kHz."""


@dataclass(frozen=True)
class Heard:
    """What a gate leaves of a waveform (N,) at 16 kHz."""

    waveform: Tensor  # (M,) samples; where there is not enough speech, none
    kept: Tensor  # (N,) bool: which samples these are
    speech_seconds: float | None  # None without a gate


def hear(gate: SpeechGate | None, waveform: Tensor) -> Heard:
    """The waveform without what is further than 1.5 s from speech; none of it with less than a tenth or 0.25 s of that.

    Models that heard utterances have not learnt to leave long pauses out: some seconds of silence in front decide the
    answer. Noise of the pauses that are kept still changes some answers.
    """
    if gate is None:
        return Heard(waveform, torch.ones(len(waveform), dtype=torch.bool), None)
    stretches = gate(waveform)
    speech = sum(end - begin for begin, end in stretches) / SAMPLE_RATE
    kept = torch.zeros(len(waveform), dtype=torch.bool)
    if speech >= min(_LEAST_FRACTION * len(waveform) / SAMPLE_RATE, _LEAST_SECONDS):
        beside = round(_BESIDE * SAMPLE_RATE)
        for begin, end in stretches:
            kept[max(0, begin - beside) : end + beside] = True
    return Heard(waveform[kept], kept, speech)


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
    def __call__(self, waveform: Tensor) -> list[tuple[int, int]]:
        """First sample and end of each stretch of speech in (N,) samples at 16 kHz."""
        with self._lock:
            stretches = self._find(waveform, self._model, threshold=0.5, sampling_rate=SAMPLE_RATE)
        return [(int(stretch["start"]), int(stretch["end"])) for stretch in stretches]


class EnergyGate:
    """Finds frames of 30 ms above -50 dB of full scale: separates sound from silence, but not speech from noise."""

    name = "energy threshold"

    def __call__(self, waveform: Tensor) -> list[tuple[int, int]]:
        """First sample and end of each frame of sound in (N,) samples at 16 kHz."""
        whole = len(waveform) // _ENERGY_FRAME * _ENERGY_FRAME
        power = waveform[:whole].reshape(-1, _ENERGY_FRAME).float().square().mean(1)  # (N / 480,)
        begins = torch.nonzero(power > _ENERGY_THRESHOLD)[:, 0] * _ENERGY_FRAME
        return [(begin, begin + _ENERGY_FRAME) for begin in begins.tolist()]


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
