"""A browser's microphone: blocks in order into the streaming recognizer, and what the page shows of it."""

import logging
import math
import secrets
import threading
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.demo import emotion_name, text
from ser.demo.plots import answer, bars, columns, headline, note, panel, timeline, waveform
from ser.demo.recognition import HIGHEST_RATE, Model
from ser.errors import SerError
from ser.inference.listening import Recording
from ser.inference.sources import RingBuffer
from ser.inference.streaming import StreamEvent, StreamingRecognizer
from ser.inference.vad import SpeechGate
from ser.io import atomic_path

log = logging.getLogger(__name__)

MOST_RECORDED = 3600.0  # seconds of a recording: it lies on the disk of the page's computer
SHOWN_SECONDS = 30.0  # of waveform and timeline, and kept for playback
_PEAK_SECONDS = 0.05  # for each pair of peaks
_LOWEST_RATE = 8000  # Hz
# Texts that capture.js shows itself.
_SCRIPT_TEXTS = (
    *("start", "stop", "asking", "denied", "no_microphone", "insecure", "unplugged", "unreachable"),
    *("clipping", "default_microphone"),
)


@dataclass(frozen=True)
class LiveSettings:
    """How a microphone is recognised, as for StreamingRecognizer."""

    window: float = 5.0  # seconds
    hop: float = 0.5  # seconds from one window to the next
    smoothing: float = 0.0  # weight of the past, 0 to below 1
    record: bool = False  # keep all of it to download


class LiveSound:
    """One stretch of listening to one microphone.

    Each window is resampled as a whole from the microphone's own rate, so there are no seams between blocks.
    """

    def __init__(
        self,
        model: Model,
        gate: SpeechGate,
        sample_rate: int,
        settings: LiveSettings = LiveSettings(),
        folder: Path | None = None,
    ) -> None:
        if not _LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
            raise SerError(
                f"the microphone's rate is {sample_rate} Hz, expected {_LOWEST_RATE} to {HIGHEST_RATE}; "
                "choose another microphone."
            )
        self.model, self.sample_rate, self.settings = model, sample_rate, settings
        self.recording: Recording | None = None
        if folder is not None and settings.record:
            wav, longest = folder / f"{secrets.token_hex(8)}.wav", round(MOST_RECORDED * sample_rate)
            self.recording = Recording(wav, sample_rate, model.recognizer.emotions, longest)
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
            if self.recording is not None:
                self.recording.hear(np.nan_to_num(samples))

    def stop(self) -> None:
        """End the stream; its last window is still answered."""
        self.ended = True
        try:
            self.stream.stop()
        finally:
            if self.recording is not None:
                self.recording.end()

    @property
    def passed(self) -> bool:
        """Whether the newest answer is out of date: its window has passed, or the microphone is closed."""
        event = self.stream.latest
        return event is not None and (self.ended or self.stream.seconds - event.end >= self.settings.window)

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
        if self.recording is not None:
            self.recording.answer(event)
        if event.probabilities is not None:
            self._answers += 1
            for name, value in event.probabilities.items():
                self._sum[name] += value


def live_panel(live: LiveSound, language: str, token: str = "") -> dict[str, str]:
    """The state of a microphone: ``html``, and ``said``, which a screen reader reads when it changes.

    After its end, with links to the recording, served to whoever knows the ``token`` of the session.
    """
    event, names = live.stream.latest, live.model.looks
    said = ""
    if event is None:
        window, heard = live.settings.window, min(live.stream.seconds, live.settings.window)
        head = headline(text(language, "listening", heard=heard, window=window), state="listening")
    elif event.error is not None:
        said = event.error
        head = note(text(language, "error", reason=event.error), "error")
    elif event.label is None or event.probabilities is None:
        said = text(language, "no_speech")
        head = headline(said, state="no-speech", passed=live.passed)
    else:
        said = emotion_name(language, event.label)
        head = answer(names, language, event.label, event.probabilities[event.label], live.passed)
    head += _live_facts(live, event, language)
    if live.stream.every > 1:
        head += note(text(language, "too_slow", hop=live.stream.hop_seconds), "warning")
    if live.recording is not None:
        links = "".join(
            f' <a href="/ser/{token}/recording.{kind}" download>{name}</a>'
            for kind, name in (("wav", "WAV"), ("jsonl", "JSON lines"))
            if live.ended
        )
        head += f'<p class="ser-note" id="ser-recording">{text(language, "recording")}{links}</p>'
    span, events = live.span, live.events()
    before = [-math.inf, *(past.end for past in events)]
    hop = live.stream.hop_seconds
    times = [(max(span[0], end, past.end - hop), past.end) for end, past in zip(before, events, strict=False)]
    html = columns(head, bars(names, language, event.probabilities if event else None))
    html += waveform(language, live.envelope(), span)
    html += timeline(names, language, times, [past.probabilities for past in events], span)
    return {"html": html, "said": said}


def _live_facts(live: LiveSound, event: StreamEvent | None, language: str) -> str:
    """Times, level and losses of a stream, as a list."""
    facts = [("heard", text(language, "seconds", value=live.stream.seconds))]
    if event is not None:
        age = text(language, "seconds", value=live.stream.seconds - event.end)
        facts += [("answer_age", age)] if live.passed else []
        facts.append(("level", text(language, "decibels", value=event.level)))
        facts.append(("latency", text(language, "milliseconds", value=1000 * event.latency)))
    facts.append(("dropped", str(live.stream.dropped)))
    if live.lost:
        facts.append(("lost", text(language, "seconds", value=live.lost / live.sample_rate)))
    items = "".join(f"<div><dt>{text(language, key)}</dt><dd>{value}</dd></div>" for key, value in facts)
    return f'<dl class="ser-live-facts">{items}</dl>'


def live_tab(listened: LiveSound | None, token: str, language: str, is_open: bool) -> str:
    """The live tab, which capture.js fills and whose data it reads.

    ``listened`` is what the microphone heard before; ``is_open`` says whether other computers can reach the page.
    """
    say = {key: escape(text(language, key), quote=True) for key in _SCRIPT_TEXTS}
    data = " ".join(f'data-{key.replace("_", "")}="{value}"' for key, value in say.items())
    idle = note(text(language, "live_idle_open" if is_open else "live_idle"))
    shown = live_panel(listened, language, token)["html"] if listened else idle
    return panel(
        f'<div id="ser-live" data-token="{token}" data-language="{language}" {data}>'
        f'<div class="ser-controls"><button id="ser-mic" type="button" aria-pressed="false">{say["start"]}</button>'
        f'<label>{text(language, "microphone")} <select id="ser-device"></select></label>'
        f'<label>{text(language, "level")} <meter id="ser-meter" min="0" max="1" high="0.97" value="0"></meter></label>'
        '<span id="ser-clip" role="status"></span></div><p id="ser-live-message" role="alert"></p>'
        '<div id="ser-live-said" class="ser-hidden" aria-live="polite"></div>'
        f'<div id="ser-live-panel">{shown}</div></div>'
    )
