"""The output of ``ser listen``: screen, table, and the recording of a microphone."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray
from rich import get_console
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ser.data.soundfiles import printable
from ser.errors import SerError
from ser.inference.recognizer import Recognizer
from ser.inference.screen import bar, write_table
from ser.inference.sources import Source
from ser.inference.streaming import StreamEvent, StreamingRecognizer
from ser.inference.vad import NO_SPEECH, SpeechGate
from ser.io import write_errors

log = logging.getLogger(__name__)

KEPT_EVENTS = 100_000  # 14 hours at two per second
_HISTORY_LINES = 8
_CLIPPING = 0.99  # of full scale
_CLIPPING_SHOWN = 2.0  # seconds
_QUIETEST = -60.0  # dB: an empty level bar


class Recording:
    """What is heard as a new WAV file, up to ``longest`` samples, and a line of JSON per window in one of its name.

    The channels are those of the first block. A full disk ends the recording with a warning, and not the listening.

    Raises:
        SerError: the file is not called .wav, is there already, or cannot be written.
    """

    def __init__(self, wav: Path, sample_rate: int, emotions: Sequence[str], longest: int = sys.maxsize) -> None:
        self.wav, self.lines = wav, wav.with_suffix(".jsonl")
        self._rate, self._emotions, self._left = sample_rate, emotions, longest
        self._file: soundfile.SoundFile | None = None
        if wav.suffix.lower() != ".wav":
            raise SerError(f"--record {printable(wav)} was given, expected a name that ends in .wav; rename it.")
        if wav.exists() or self.lines.exists():
            raise SerError(f"--record {printable(wav)} is there already, expected a new file; give another name.")
        with write_errors(wav):
            wav.parent.mkdir(parents=True, exist_ok=True)
            wav.touch()
            self.lines.touch()

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Write samples (N,) or (N, channels)."""
        kept = samples[: self._left]
        if not len(kept):
            return
        self._left -= len(kept)
        try:
            if self._file is None:
                channels, name = kept.shape[1] if kept.ndim == 2 else 1, os.fsencode(self.wav)
                self._file = soundfile.SoundFile(name, "w", self._rate, channels, subtype="PCM_16", format="WAV")
            self._file.write(kept)
        except (soundfile.SoundFileError, OSError) as error:
            log.warning("the recording %s ends here, what was written stays: %s", printable(self.wav), error)
            self.end()

    def hearing(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The same blocks, each written as it passes."""
        try:
            for block in blocks:
                self.hear(block)
                yield block
        finally:
            self.end()

    def answer(self, event: StreamEvent) -> None:
        """Write the line of a window."""
        with suppress(OSError), self.lines.open("a", encoding="utf-8") as file:  # the WAV file's warning tells
            file.write(json.dumps(event_row(event, self._emotions)) + "\n")

    def end(self) -> None:
        """Close the WAV file; nothing more is written into it."""
        self._left = 0
        if self._file is not None:
            with suppress(OSError, soundfile.SoundFileError):
                self._file.close()


def listen(
    recognizer: Recognizer,
    source: Source,
    output: Path | None = None,
    as_json: bool = False,
    gate: SpeechGate | None = None,
    *,
    window: float = 5.0,
    hop: float = 0.5,
    smoothing: float = 0.0,
    record: Path | None = None,
) -> bool:
    """Recognise a source until it ends or Ctrl-C, and show each window as soon as it is answered.

    The table of the windows goes to ``output`` at the end. With ``as_json`` a line of JSON per window goes to
    standard output, and everything else to standard error. Without a gate every window gets an emotion. ``record``
    is a new WAV file for what is heard. Returns whether there was an answer for every window, one at least.
    """
    recording, blocks = None, source.blocks
    console = Console(stderr=True) if as_json else get_console()
    seen = gate.name if gate else "no gate, so silence gets an emotion, too"
    log.info("listening to %s at %d Hz, speech by %s; Ctrl-C ends", source.name, source.sample_rate, seen)
    for note in recognizer.config.notes:
        log.info(note)
    on_screen = console.is_terminal and not as_json

    def show(event: StreamEvent) -> None:
        if recording is not None:
            recording.answer(event)
        if as_json:
            sys.stdout.write(json.dumps(event_row(event, recognizer.emotions)) + "\n")
            sys.stdout.flush()
        elif not on_screen:
            console.print(_line(event), highlight=False, soft_wrap=True)

    stream = StreamingRecognizer(
        recognizer,
        source.sample_rate,
        window=window,
        hop=hop,
        smoothing=smoothing,
        gate=gate,
        on_event=show,
        history=KEPT_EVENTS,
    )
    if record is not None:
        recording = Recording(record, source.sample_rate, recognizer.emotions)
        blocks = recording.hearing(source.blocks)
    try:
        with Live(console=console, refresh_per_second=10) if on_screen else nullcontext() as live:
            with suppress(KeyboardInterrupt), stream:  # the ordinary way to end
                for clipping in _feed(stream, blocks, wait=not source.realtime):
                    if live is not None:
                        live.update(view(stream, clipping))
            if live is not None:
                live.update(view(stream))  # the last windows are answered while the stream closes
    finally:
        if output is not None:
            write_table(output, event_table(stream.history(), recognizer.emotions))
        for line in _ending(stream, output, record):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    return stream.processed > 0 and not stream.refused


def _feed(stream: StreamingRecognizer, blocks: Iterator[NDArray[np.float32]], wait: bool) -> Iterator[bool]:
    """Write each block into the stream, and say in it where sound is missing; yield whether the sound clips."""
    clipped, lost = -math.inf, None  # seconds of the stream; of the clock, when sound stopped
    for block in blocks:
        if lost is None and not len(block):
            lost = time.monotonic()
            stream.interrupt("no sound comes from the microphone")
        elif lost is not None and len(block):
            stream.interrupt(f"{time.monotonic() - lost:.0f} s of sound are missing here")
            lost = None
        stream.write(block, wait)
        if np.abs(block).max(initial=0.0) >= _CLIPPING:
            if clipped < 0:
                log.warning("the sound clips at %.1f s; lower the gain where it is recorded", stream.seconds)
            clipped = stream.seconds
        yield stream.seconds - clipped < _CLIPPING_SHOWN


def _ending(stream: StreamingRecognizer, output: Path | None, record: Path | None) -> Iterator[str]:
    """What was heard and answered, and why nothing was where the input was too short."""
    if output is not None:
        yield f"table of the windows in {printable(output)}, rows: {len(stream.history())}"
    refused = f", refused: {stream.refused}" if stream.refused else ""
    yield f"{stream.seconds:.1f} s heard; windows answered: {stream.processed}{refused}, dropped: {stream.dropped}"
    whole = stream.window / stream.sample_rate
    if 0 < stream.seconds < whole:
        fits = math.floor(40 * stream.seconds) / 40  # 25 ms are the shortest window
        advice = f"give a shorter one, --window {fits:g}, or use `ser predict`" if fits else "too few for any model"
        yield (
            f"nothing could be answered: a window is {whole:.3g} s long and only {stream.seconds:.3g} s were heard; "
            f"{advice}"
        )
    if record is not None:
        yield f"recorded in {printable(record)} and {printable(record.with_suffix('.jsonl'))}"


def event_row(event: StreamEvent, emotions: Sequence[str]) -> dict[str, Any]:
    """Number, times (s), emotion (None with an error), confidence, latency (s), level (dB), dropped, probabilities."""
    facts = {name: getattr(event, name) for name in ("index", "start", "end")}
    facts |= {"emotion": None if event.error else event.label or NO_SPEECH, "confidence": event.confidence}
    facts |= {name: getattr(event, name) for name in ("latency", "level", "dropped", "error")}
    return facts | {f"p_{name}": (event.probabilities or {}).get(name) for name in emotions}


def event_table(events: Sequence[StreamEvent], emotions: Sequence[str]) -> pd.DataFrame:
    """One event_row per event."""
    columns = ["index", "start", "end", "emotion", "confidence", "latency", "level", "dropped", "error"]
    rows = [event_row(event, emotions) for event in events]
    return pd.DataFrame(rows, columns=[*columns, *(f"p_{name}" for name in emotions)])


def _line(event: StreamEvent) -> Text:
    what = event.error or event.label or NO_SPEECH
    confidence = "" if event.confidence is None else f" {event.confidence:.2f}"
    return Text(f"{event.end:8.1f} s  {what}{confidence}  ({1000 * event.latency:.0f} ms, {event.dropped} dropped)")


def view(stream: StreamingRecognizer, clipping: bool = False) -> Panel:
    """The state of a stream: emotion, bars, level, latency, the last windows."""
    event = stream.latest
    if event is None:
        heard = f"{stream.seconds:.1f} of {stream.window / stream.sample_rate:.3g} s"
        return Panel(Text(f"listening: {heard} of the first window"), title="speech emotion")
    bars = Table.grid(padding=(0, 1))
    for name in stream.recognizer.emotions:
        value = event.probabilities[name] if event.probabilities else 0.0
        bars.add_row(Text(name), f"{value:.2f}", bar(value, 30))
    headline = Text(event.error or (event.label or NO_SPEECH).upper(), style="bold red" if event.error else "bold")
    if event.confidence is not None:
        headline.append(f"  {event.confidence:.0%}")
    facts = Text(
        f"{stream.seconds:.1f} s heard, latency {1000 * event.latency:.0f} ms, {stream.dropped} windows dropped",
        style="dim",
    )
    level = Text(f"level {bar(1 - event.level / _QUIETEST, 30)} {event.level:.0f} dB", style="dim")
    if clipping:
        level.append("  CLIPPING: lower the gain", style="bold red")
    history = Text("\n").join(_line(past) for past in reversed(stream.history()[-_HISTORY_LINES:]))
    return Panel(Group(headline, Text(), bars, Text(), level, facts, Text(), history), title="speech emotion")
