"""A browser's microphone: blocks in order into the streaming recognizer, and what the page shows of it."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.demo.recognition import HIGHEST_RATE, Model
from ser.errors import SerError
from ser.inference.streaming import RingBuffer, StreamEvent, StreamingRecognizer
from ser.inference.vad import SpeechGate
from ser.io import atomic_path

SHOWN_SECONDS = 30.0  # of waveform and timeline, and kept for playback
_PEAK_SECONDS = 0.05  # for each pair of peaks
_LOWEST_RATE = 8000  # Hz


@dataclass(frozen=True)
class LiveSettings:
    """How a microphone is recognised, as for StreamingRecognizer.

    Attributes:
        window: seconds of each window.
        hop: seconds from one window to the next.
        smoothing: weight of the past, 0 to below 1.
    """

    window: float = 5.0
    hop: float = 0.5
    smoothing: float = 0.0


class LiveSound:
    """One stretch of listening to one microphone.

    Each window is resampled as a whole from the microphone's own rate, so there are no seams between blocks.

    Args:
        model: answers.
        gate: finds speech.
        sample_rate: of the microphone, Hz.
        settings: window, hop and smoothing.

    Raises:
        SerError: a rate or setting that is not supported.
    """

    def __init__(
        self, model: Model, gate: SpeechGate, sample_rate: int, settings: LiveSettings = LiveSettings()
    ) -> None:
        if not _LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
            raise SerError(
                f"the microphone's rate is {sample_rate} Hz, expected {_LOWEST_RATE} to {HIGHEST_RATE}; "
                "choose another microphone."
            )
        self.model, self.sample_rate, self.settings = model, sample_rate, settings
        self.stream = StreamingRecognizer(
            model.recognizer,
            sample_rate,
            window=settings.window,
            hop=settings.hop,
            smoothing=settings.smoothing,
            gate=gate,
            history=round(SHOWN_SECONDS / settings.hop),
            on_event=self._count,
        ).start()
        self.recent = RingBuffer(round(SHOWN_SECONDS * sample_rate))
        self.lost = 0  # samples that never arrived
        self.ended = False
        self._expected: int | None = None  # number of the next sample by the browser's count
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

    def stop(self) -> None:
        """End the stream; its last window is still answered."""
        self.ended = True
        self.stream.stop()

    @property
    def passed(self) -> bool:
        """Whether the newest answer says nothing of the present: its window has passed, or the microphone is closed."""
        event = self.stream.latest
        return event is not None and (self.ended or self.stream.seconds - event.end >= self.settings.window)

    @property
    def too_slow(self) -> bool:
        """Whether the computer drops more than a tenth of the windows."""
        dropped = self.stream.dropped
        return dropped > 2 and dropped > 0.1 * (dropped + self.stream.processed)

    @property
    def span(self) -> tuple[float, float]:
        """Begin and end of what is shown, seconds of the stream."""
        end = max(self.stream.seconds, SHOWN_SECONDS)
        return end - SHOWN_SECONDS, end

    def envelope(self) -> NDArray[np.float32]:
        """Peaks (N, 2), lowest and highest, of the shown span; what is still to come is flat."""
        step = round(_PEAK_SECONDS * self.sample_rate)
        samples, clock = self.recent.latest(), self.recent.clock
        samples = np.roll(samples, min(0, clock - len(samples)))[(clock % step if clock > len(samples) else 0) :]
        parts = samples[: len(samples) // step * step].reshape(-1, step)  # (N,) -> (peaks, step)
        return np.stack((parts.min(axis=1), parts.max(axis=1)), axis=1)

    def events(self) -> list[StreamEvent]:
        """Those inside the shown span, oldest first."""
        begin = self.span[0]
        return [event for event in self.stream.history() if event.end - self.settings.hop >= begin - 1e-9]

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
