"""Recognition of a stream: exact windows by the stream's own clock of samples, one thread, nothing queued."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser.data.audio import SAMPLE_RATE, prepare
from ser.data.normalization import RunningStatistics
from ser.errors import SerError, check_number
from ser.inference.recognizer import Prediction, Recognizer
from ser.inference.sources import RingBuffer
from ser.inference.timeline import check_windows
from ser.inference.vad import SpeechGate, hear, level

log = logging.getLogger(__name__)
_RECENT, _TOO_MANY = 10, 3  # so many dropped among the recent windows lengthen the hop


@dataclass(frozen=True)
class StreamEvent:
    """What is known of one window."""

    index: int  # number of the window, from 0; numbers that are missing were dropped
    start: float  # where it begins, seconds of the stream
    end: float  # where it ends
    prediction: Prediction | None  # of exactly these samples; None where there is no speech or no answer
    probabilities: dict[str, float] | None  # smoothed since speech began, in class order; None without a prediction
    level: float  # of the last hop, dB relative to full scale
    latency: float  # seconds from the window's last sample to this answer
    dropped: int  # windows dropped so far
    error: str | None = None  # why there is no answer (such as NaN from the device, or missing sound)

    @property
    def label(self) -> str | None:
        """The most probable emotion after smoothing; None means no speech."""
        return None if self.probabilities is None else max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float | None:
        """Smoothed probability of ``label``."""
        return max(self.probabilities.values()) if self.probabilities else None


@dataclass(frozen=True)
class _Window:
    index: int
    end: int
    samples: NDArray[np.float32]
    arrived: float
    error: str | None = None  # in place of an answer


class StreamingRecognizer:
    """Recognises the last ``window`` seconds of a stream every ``hop`` seconds, in its own thread.

    Windows are cut by counting samples, so window k covers exactly [k hop, k hop + window) however the blocks arrive.
    One finished window may wait for the thread; a newer one takes its place, which counts as dropped. Where the machine
    drops several, only every second, third ... window is made from then on, and a warning says so once. Models trained
    with speaker normalisation use running statistics of the stream's speech that start from the training ones. Use it
    as a context manager, or call start() and stop().

    Several streams may share a recognizer. Each window is resampled as a whole from the ``sample_rate`` of the
    stream. ``smoothing`` is the weight of earlier windows in the exponential smoothing of probabilities, 0 (none)
    to below 1. A window with less than a tenth of speech (or 0.25 s) gets no emotion; without a gate
    every window gets one. ``on_event`` is called in the thread of the stream; ``history`` is the number of events
    kept.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        sample_rate: int = SAMPLE_RATE,
        *,
        window: float = 5.0,
        hop: float = 0.5,
        smoothing: float = 0.0,
        gate: SpeechGate | None = None,
        on_event: Callable[[StreamEvent], None] | None = None,
        history: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recognizer, self.sample_rate, self.gate = recognizer, sample_rate, gate
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)  # samples
        check_windows(window, hop)
        check_number("--smoothing", smoothing, 0, 0.999)
        self.smoothing = smoothing
        self.buffer = RingBuffer(self.window)
        self.processed = self.refused = self.dropped = 0  # windows; of NaN and the like: refused
        self.every = 1  # every which window is answered
        self._events: deque[StreamEvent] = deque(maxlen=history)
        self._on_event, self._clock = on_event, clock
        self._next_index, self._counted_to = 0, 0  # of a window; samples that the running statistics have seen
        self._drops: deque[bool] = deque(maxlen=_RECENT)
        self._seconds, self._begun = 0.0, math.inf  # duration of the last answer; start of the current one
        self._waiting: _Window | None = None
        self._smoothed: NDArray[np.float64] | None = None
        self._busy, self._ending = False, False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: RunningStatistics | None = None
        if recognizer.config.kind == "speaker" and recognizer.encoder is not None:
            self._running = RunningStatistics(recognizer.config.statistics, recognizer.encoder.frame_rate)

    def start(self) -> Self:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="recognition", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer the window that waits, if any, and end the thread; a defect that ended it before is raised here."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def seconds(self) -> float:
        """Length of the stream so far."""
        return self.buffer.clock / self.sample_rate

    @property
    def hop_seconds(self) -> float:
        """From one window that is made to the next."""
        return self.every * self.hop / self.sample_rate

    @property
    def latest(self) -> StreamEvent | None:
        """The newest event."""
        with self._changed:
            return self._events[-1] if self._events else None

    def history(self) -> list[StreamEvent]:
        """Events so far, oldest first, at most as many as are kept."""
        with self._changed:
            return list(self._events)

    def write(self, samples: NDArray[np.floating] | Sequence[float], wait: bool = False) -> None:
        """Take in samples (N,) or (N, channels) in [-1, 1] of the stream's rate, any number; returns at once.

        With ``wait`` only when the thread is free, so that a source faster than real time loses no window.
        """
        block = np.asarray(samples, np.float32)
        block = block.mean(axis=1) if block.ndim == 2 else block  # (N, channels) -> (N,)
        while len(block):
            due = self.window + self._next_index * self.hop
            part, block = np.split(block, [due - self.buffer.clock])
            self.buffer.write(part)
            if self.buffer.clock == due:
                self._hand_over(_Window(self._next_index, due, self.buffer.latest(), self._clock()), wait)
                self._next_index += self.every

    def interrupt(self, reason: str) -> None:
        """Say in an event that sound is missing at this point of the stream, which no window will cross."""
        now, nothing = self.buffer.clock, np.zeros(0, np.float32)
        self._hand_over(_Window(self._next_index, now, nothing, self._clock(), reason), wait=True)
        self._next_index = max(self._next_index, now // self.hop) + 1

    def _hand_over(self, window: _Window, wait: bool) -> None:
        with self._changed:
            while wait and (self._waiting is not None or self._busy) and self._failure is None:
                self._changed.wait()
            if self._failure is not None:  # such as a closed pipe: nobody would answer
                raise self._failure
            self._drops.append(self._waiting is not None)
            self.dropped += self._drops[-1]
            self._waiting = window
            self._changed.notify_all()
        if sum(self._drops) >= _TOO_MANY:
            self._lengthen_hop()

    def _lengthen_hop(self) -> None:
        """Make fewer windows, as many as the last answer's time allows; the hop stays below the window."""
        seconds = max(self._seconds, self._clock() - self._begun)  # the first answer may still be in the making
        needed = math.ceil(1.2 * seconds * self.sample_rate / self.hop)
        every = min(max(self.every + 1, needed), self.window // self.hop)
        self._drops.clear()
        if every == self.every:
            return
        if self.every == 1:
            log.warning(
                "this computer needs at least %.1f s per window of %g s, so an answer comes every %g s from now on; "
                "faster are a shorter window, a smaller model, or its ONNX file (ser export --with-encoder)",
                seconds, self.window / self.sample_rate, every * self.hop / self.sample_rate,
            )  # fmt: skip
        self.every = every

    def _work(self) -> None:
        """Answer windows until the end."""
        try:
            while (window := self._next()) is not None:
                event = self._answer(window)
                with self._changed:
                    self._events.append(event)
                    self.processed += event.error is None
                    self.refused += event.error is not None and window.error is None
                if self._on_event is not None:
                    self._on_event(event)
        except BaseException as failure:
            self._failure = failure
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> _Window | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while self._waiting is None and not self._ending:
                self._changed.wait()
            window, self._waiting = self._waiting, None
            self._busy = window is not None
            return window

    def _answer(self, window: _Window) -> StreamEvent:
        prediction, error, self._begun = None, window.error, self._clock()
        try:
            prediction = self._predict(window) if error is None else None
        except SerError as reason:
            error = str(reason)
        self._seconds, self._begun = self._clock() - self._begun, math.inf
        return StreamEvent(
            index=window.index,
            start=(window.end - len(window.samples)) / self.sample_rate,
            end=window.end / self.sample_rate,
            prediction=prediction,
            probabilities=self._smooth(prediction),
            level=level(torch.from_numpy(window.samples[-self.hop :])),
            latency=self._clock() - window.arrived,
            dropped=self.dropped,
            error=error,
        )

    def _predict(self, window: _Window) -> Prediction | None:
        waveform = prepare(window.samples, self.sample_rate)
        seconds = len(waveform) / SAMPLE_RATE
        if not len(waveform := hear(self.gate, waveform).waveform):
            return None
        if self._running is None:
            return replace(self.recognizer.predict_batch([waveform])[0], seconds=seconds)
        frames = self.recognizer.frames([waveform])
        self._update_statistics(self._running, frames[0], window.end)
        return self.recognizer.classify(frames, [seconds], self._running.current)[0]

    def _update_statistics(self, running: RunningStatistics, frames: Tensor, end: int) -> None:
        """Count the frames that no earlier window held, about so many where pauses were left out."""
        new = min(self.window, end - self._counted_to) / self.window  # fraction of the window
        running.update(frames[len(frames) - round(new * len(frames)) :])
        self._counted_to = end

    def _smooth(self, prediction: Prediction | None) -> dict[str, float] | None:
        if prediction is None:
            self._smoothed = None  # smoothing starts anew after a pause
            return None
        now = np.array(list(prediction.probabilities.values()))
        past = now if self._smoothed is None else self._smoothed
        self._smoothed = self.smoothing * past + (1 - self.smoothing) * now
        return dict(zip(prediction.probabilities, self._smoothed.tolist(), strict=True))
