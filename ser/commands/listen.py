"""Recognise live: ``ser listen --checkpoint RUN``, or ``--input file.wav --realtime`` in the microphone's place."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import get_console
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ser.commands.predict import add_model_arguments, bar, write_table
from ser.commands.values import positive_number
from ser.errors import SerError
from ser.inference.recognizer import Recognizer
from ser.inference.sources import Source, file_source, microphone_source
from ser.inference.speech_gate import best_gate
from ser.inference.streaming import StreamEvent, StreamingRecognizer

log = logging.getLogger(__name__)

NO_SPEECH = "no speech"
_HISTORY_LINES = 8
_KEPT_EVENTS = 100_000  # 14 hours at two a second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, source, windows."""
    add_model_arguments(parser)
    parser.add_argument("--input", metavar="FILE", help="an audio file instead of the microphone")
    parser.add_argument("--realtime", action="store_true", help="play the file's clock; else as fast as it can")
    parser.add_argument("--microphone", metavar="NAME", help="number or part of the name of the input device")
    parser.add_argument("--window", type=positive_number, default=5.0, metavar="SECONDS", help="default: 5")
    parser.add_argument("--hop", type=positive_number, default=0.5, metavar="SECONDS", help="default: 0.5")
    parser.add_argument(
        "--smoothing",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="of the past in the shown probabilities, 0 to below 1 (default: 0)",
    )
    parser.add_argument("--no-vad", action="store_true", help="recognise silence too")
    parser.add_argument("--output", metavar="FILE", help="write the events at the end: .csv or .json")


def run(arguments: argparse.Namespace) -> int:
    """Listen until the source ends or Ctrl-C."""
    output = None if arguments.output is None else Path(arguments.output)
    if output is not None and output.suffix.lower() not in (".csv", ".json"):
        raise SerError(f"--output {output} ends in {output.suffix or 'nothing'!r}, expected .csv or .json; rename it.")
    recognizer = Recognizer.from_checkpoint(arguments.checkpoint, arguments.encoder, arguments.device)
    gate = None if arguments.no_vad else best_gate()
    source = (
        microphone_source(_device(arguments.microphone))
        if arguments.input is None
        else file_source(arguments.input, arguments.realtime)
    )
    log.info(
        "listening to %s at %d Hz, speech by %s; Ctrl-C ends",
        source.name,
        source.sample_rate,
        gate.name if gate else "no gate: silence gets an emotion too",
    )
    stream = StreamingRecognizer(
        recognizer,
        source.sample_rate,
        window=arguments.window,
        hop=arguments.hop,
        smoothing=arguments.smoothing,
        gate=gate,
        history=_KEPT_EVENTS,
    )
    try:
        _listen(stream, source)
    finally:
        if output is not None:
            write_table(output, event_table(stream.history(), recognizer.emotions))
            get_console().print(f"{len(stream.history())} events in {output}", highlight=False)
        get_console().print(
            f"{stream.seconds:.1f} s heard, {stream.processed} windows answered, {stream.dropped} dropped",
            highlight=False,
        )
        whole = stream.window / stream.sample_rate
        if 0 < stream.seconds < whole:
            get_console().print(
                f"nothing could be answered: a window is {whole:g} s long and only {stream.seconds:.1f} s were heard; "
                f"give a shorter one, --window {max(0.5, stream.seconds // 0.5 * 0.5):g}, or use `ser predict`"
            )
    return 0


def event_table(events: Sequence[StreamEvent], emotions: Sequence[str]) -> pd.DataFrame:
    """One row a window: index, start, end, emotion, confidence, latency, level, dropped, error, ``p_<emotion>``."""
    rows = []
    for event in events:
        probabilities = event.probabilities or dict.fromkeys(emotions)
        rows.append(
            {
                "index": event.index,
                "start": event.start,
                "end": event.end,
                "emotion": event.label or NO_SPEECH,
                "confidence": max(event.probabilities.values()) if event.probabilities else None,
                "latency": event.latency,
                "level": event.level,
                "dropped": event.dropped,
                "error": event.error,
                **{f"p_{name}": probabilities[name] for name in emotions},
            }
        )
    columns = ["index", "start", "end", "emotion", "confidence", "latency", "level", "dropped", "error"]
    return pd.DataFrame(rows, columns=[*columns, *(f"p_{name}" for name in emotions)])


def _listen(stream: StreamingRecognizer, source: Source) -> None:
    """Feed the stream and show what it finds: a live view in a terminal, lines elsewhere."""
    console = get_console()
    live = Live(Text("listening ..."), console=console, refresh_per_second=10) if console.is_terminal else None
    printed = -1
    with stream:
        try:
            if live is not None:
                live.start()
            for block in source.blocks:
                stream.write(block, wait=not source.realtime)
                if live is not None:
                    live.update(view(stream))
                else:
                    printed = _print_new(stream, printed)
        except KeyboardInterrupt:
            pass  # the ordinary way to end
        finally:
            if live is not None:
                live.stop()
    if live is None:
        _print_new(stream, printed)


def _print_new(stream: StreamingRecognizer, printed: int) -> int:
    for event in stream.history()[-50:]:
        if event.index > printed:
            get_console().print(_line(event), highlight=False, soft_wrap=True)
            printed = event.index
    return printed


def _line(event: StreamEvent) -> Text:
    what = event.error or event.label or NO_SPEECH
    share = f" {max(event.probabilities.values()):.2f}" if event.probabilities else ""
    return Text(f"{event.end:8.1f} s  {what}{share}  ({1000 * event.latency:.0f} ms, {event.dropped} dropped)")


def view(stream: StreamingRecognizer) -> Panel:
    """The state of a stream: emotion, bars, latency, the last answers."""
    event = stream.latest
    if event is None:
        heard = f"{stream.seconds:.1f} of {stream.window / stream.sample_rate:g} s"
        return Panel(Text(f"listening: {heard} of the first window"), title="speech emotion")
    bars = Table.grid(padding=(0, 1))
    for name in stream.recognizer.emotions:
        value = event.probabilities[name] if event.probabilities else 0.0
        bars.add_row(name, f"{value:.2f}", bar(value, 30))
    headline = Text(event.error or (event.label or NO_SPEECH).upper(), style="bold red" if event.error else "bold")
    if event.probabilities:
        headline.append(f"  {max(event.probabilities.values()):.0%}")
    facts = Text(
        f"{stream.seconds:.1f} s heard, level {event.level:.0f} dB, latency {1000 * event.latency:.0f} ms, "
        f"{stream.dropped} windows dropped",
        style="dim",
    )
    history = Text("\n").join(_line(past) for past in reversed(stream.history()[-_HISTORY_LINES:]))
    return Panel(Group(headline, Text(), bars, Text(), facts, Text(), history), title="speech emotion")


def _device(name: str | None) -> int | str | None:
    return int(name) if name is not None and name.isdigit() else name
