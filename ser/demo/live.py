"""A browser's microphone: blocks in order into the streaming recognizer, and what the page shows of it."""

import threading
from collections import deque
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.demo.models import Model
from ser.errors import SerError
from ser.inference.speech_gate import SpeechGate
from ser.inference.streaming import RingBuffer, StreamEvent, StreamingRecognizer
from ser.io import atomic_path

WINDOW, HOP = 5.0, 0.5  # seconds
SHOWN_SECONDS = 30.0  # of waveform and timeline, and kept for play back
_PEAK_SECONDS = 0.05  # a pair of peaks each
_LOWEST_RATE, _HIGHEST_RATE = 8000, 192_000  # Hz, what browsers record at


class LiveSound:
    """One stretch of listening to one microphone.

    Windows are resampled as a whole from the microphone's own rate, so there are no seams between blocks.

    Args:
        model: answers.
        gate: finds speech.
        sample_rate: of the microphone, Hz.

    Raises:
        SerError: an impossible rate.
    """

    def __init__(self, model: Model, gate: SpeechGate, sample_rate: int) -> None:
        if not _LOWEST_RATE <= sample_rate <= _HIGHEST_RATE:
            raise SerError(
                f"the microphone's rate is {sample_rate} Hz, expected {_LOWEST_RATE} to {_HIGHEST_RATE}; "
                "choose another microphone."
            )
        self.model, self.sample_rate = model, sample_rate
        kept = round(SHOWN_SECONDS / HOP)
        self.stream = StreamingRecognizer(
            model.recognizer, sample_rate, window=WINDOW, hop=HOP, gate=gate, history=kept, on_event=self._count
        ).start()
        self.recent = RingBuffer(round(SHOWN_SECONDS * sample_rate))
        self.lost = 0  # samples that never arrived
        self._expected: int | None = None  # number of the next sample by the browser's count
        self._peaks: deque[tuple[float, float]] = deque(maxlen=round(SHOWN_SECONDS / _PEAK_SECONDS))
        self._unpeaked = np.zeros(0, np.float32)
        self._sum: dict[str, float] = dict.fromkeys(model.recognizer.emotions, 0.0)
        self._answers = 0
        self._turn = threading.Lock()  # a browser that repeats a request must not mix two blocks

    def write(self, first: int, samples: NDArray[np.float32]) -> None:
        """Take in a block (N,) whose first sample has number ``first`` by the browser's count.

        What arrives twice is taken once. What never arrives becomes silence of at most one window, and is counted.
        """
        with self._turn:
            end = first + len(samples)
            expected = first if self._expected is None else self._expected
            if first < expected:
                samples = samples[expected - first :]
            elif first > expected:
                gap = first - expected
                self.lost += gap
                samples = np.concatenate((np.zeros(min(gap, self.stream.window), np.float32), samples))
            if not len(samples):
                return
            self._expected = end
            self.stream.write(samples)
            self.recent.write(np.nan_to_num(samples))
            self._add_peaks(np.nan_to_num(samples))

    def stop(self) -> None:
        """End the stream; its last window is still answered."""
        self.stream.stop()

    @property
    def span(self) -> tuple[float, float]:
        """Begin and end of what is shown, seconds of the stream."""
        end = max(self.stream.seconds, SHOWN_SECONDS)
        return end - SHOWN_SECONDS, end

    def envelope(self) -> NDArray[np.float32]:
        """Peaks (N, 2) of the shown span; what is still to come is flat."""
        with self._turn:
            peaks = list(self._peaks)
        flat = [(0.0, 0.0)] * (round(SHOWN_SECONDS / _PEAK_SECONDS) - len(peaks))
        return np.array([*peaks, *flat], np.float32)

    def events(self) -> list[StreamEvent]:
        """Those inside the shown span, oldest first."""
        begin = self.span[0]
        return [event for event in self.stream.history() if event.end - HOP >= begin - 1e-9]

    def mean(self) -> dict[str, float]:
        """Mean probabilities of all windows with speech; empty without any."""
        return {name: value / self._answers for name, value in self._sum.items()} if self._answers else {}

    def save_clip(self, path: Path) -> Path:
        """Write the last 30 s to a WAV file."""
        samples = self.recent.latest()[-max(1, min(len(self.recent), self.recent.clock)) :]
        with atomic_path(path) as temporary:
            soundfile.write(temporary, samples, self.sample_rate, subtype="PCM_16")
        return path

    def _count(self, event: StreamEvent) -> None:
        if event.probabilities is not None:
            self._answers += 1
            for name, value in event.probabilities.items():
                self._sum[name] += value

    def _add_peaks(self, samples: NDArray[np.float32]) -> None:
        step = round(_PEAK_SECONDS * self.sample_rate)
        samples = np.concatenate((self._unpeaked, samples))
        whole = len(samples) // step * step
        parts = samples[:whole].reshape(-1, step)  # (N,) -> (peaks, step)
        self._peaks.extend(zip(parts.min(axis=1).tolist(), parts.max(axis=1).tolist(), strict=True))
        self._unpeaked = samples[whole:]
