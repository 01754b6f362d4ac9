"""Screen output and tables of ``ser predict`` and ``ser export``."""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from ser.data.audio import SAMPLE_RATE
from ser.data.soundfiles import printable
from ser.errors import SerError
from ser.inference.files import FilePredictions, StatisticsOf, collect_files, first_minute, predict_each
from ser.inference.recognizer import Recognizer
from ser.inference.timeline import timeline, timeline_columns
from ser.inference.vad import NO_SPEECH, SpeechGate
from ser.io import plain_rows, safe_csv, write_json, write_text

log = logging.getLogger(__name__)

T = TypeVar("T")
_SHOWN_ROWS = 200
_NAME = 24  # characters of a file name before it is folded to make room for bars
_WORTH_IT = 0.8  # of the size in single precision: above it int8 loses accuracy for nothing


def check_table_name(path: Path | None) -> None:
    """Refuse a table that is neither .csv nor .json, or cannot be written, before any work is done."""
    if path is None:
        return
    if path.suffix.lower() not in (".csv", ".json"):
        raise SerError(f"--output {path} ends in {path.suffix or 'nothing'!r}, expected .csv or .json; rename it.")
    folder = next(above for above in path.absolute().parents if above.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SerError(
            f"--output {printable(path)} cannot be written, expected a writable folder for it; choose another."
        )


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all: as JSON records, or as CSV in which no text starts a spreadsheet formula."""
    if path.suffix.lower() == ".json":
        write_json(path, plain_rows(table))
    else:
        write_text(path, safe_csv(table))


def recognise(
    recognizer: Recognizer,
    files: Sequence[Path],
    window: float | None,
    hop: float,
    batch_seconds: float,
    workers: int,
    statistics_of: StatisticsOf,
    gate: SpeechGate | None,
) -> tuple[FilePredictions, list[Path]]:
    """Predictions of files, or of their windows (a row each), and which files these are: not all after Ctrl-C."""
    if window is None:
        found = _collect(predict_each(recognizer, files, batch_seconds, workers, statistics_of, gate), len(files))
        return FilePredictions.of(files, found, recognizer.emotions), list(found)
    windows = _collect(_timelines(recognizer, files, window, hop, statistics_of, gate), len(files))
    tables = [rows for rows in windows.values() if not isinstance(rows, str)]
    none = pd.DataFrame(columns=["file", *timeline_columns(recognizer.emotions)])
    failures = {printable(path): reason for path, reason in windows.items() if isinstance(reason, str)}
    return FilePredictions(pd.concat(tables or [none], ignore_index=True), failures), list(windows)


def _collect(outcomes: Iterator[tuple[Path, T]], total: int) -> dict[Path, T]:
    """What each file gave, with a bar; Ctrl-C ends it where there is something to show."""
    found: dict[Path, T] = {}
    columns = TextColumn("recognising"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=get_console(), transient=True) as progress:
        task = progress.add_task("", total=total)
        try:
            for path, outcome in outcomes:
                found[path] = outcome
                progress.advance(task)
        except KeyboardInterrupt:
            if not found:
                raise
    return found


def _timelines(
    recognizer: Recognizer,
    files: Sequence[Path],
    window: float,
    hop: float,
    statistics_of: StatisticsOf,
    gate: SpeechGate | None,
) -> Iterator[tuple[Path, pd.DataFrame | str]]:
    """Each file with its windows, or the reason why there are none."""
    for path in files:
        try:
            rows = timeline(recognizer, path, window, hop, statistics_of(path), gate)
        except SerError as error:
            yield path, str(error)
        else:
            rows.insert(0, "file", printable(path))
            yield path, rows


def show_predictions(
    table: pd.DataFrame, recognizer: Recognizer, speaker_per_folder: bool = False, gate: SpeechGate | None = None
) -> None:
    """Print the first rows: bars where the screen is wide enough, figures where not, no column cut."""
    if table.empty:
        return
    console = get_console()
    console.print(_predictions_table(table, recognizer.emotions, console.width))
    for note in recognizer.config.notes:
        console.print(note, highlight=False, markup=False)
    silent = int((table["predicted"] == NO_SPEECH).sum())
    if silent and gate is not None:
        what = f"{silent} of {len(table)} rows hold no speech by the {gate.name}"
        console.print(f"{what}; --no-gate gives them an emotion, too", highlight=False)
    if recognizer.config.kind == "speaker" and not speaker_per_folder:
        console.print(
            "the model was trained with the statistics of each speaker, but those of the training part were used; if "
            "each folder holds the files of one speaker, add --speaker-per-folder"
        )


def _predictions_table(table: pd.DataFrame, emotions: Sequence[str], width: int) -> Table:
    """The first rows of predictions of files or windows, for a screen of ``width`` characters."""
    shown = table.head(_SHOWN_ROWS)
    names, times = shortest_names(shown["file"].tolist()), _times(shown)
    columns = (["file", *names], ["seconds", *times], ["emotion", *shown["predicted"]])
    fixed = 1 + sum(min(max(map(cell_len, column)), _NAME) + 2 for column in columns)  # edge, gaps; names may fold
    bars = next((n for n in (10, 4) if fixed + sum(max(cell_len(name), n + 5) + 2 for name in emotions) <= width), 0)
    separate = bool(bars) or fixed + sum(max(cell_len(name), 4) + 2 for name in emotions) <= width
    heads = [Column(name, no_wrap=True, justify="left" if bars else "right") for name in emotions]
    screen = Table(
        Column("file", ratio=1),  # gives way to the figures
        Column("seconds", justify="right", no_wrap=True),
        Column("emotion", no_wrap=True),
        *(heads if separate else [Column("prob.", no_wrap=True), Column("other emotions", ratio=1)]),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    before = None
    for name, when, row in zip(names, times, shown.to_dict(orient="records"), strict=True):
        screen.add_row(
            _Name(name if name != before else ""),
            when,
            Text(row["predicted"], style="bold"),
            *_probabilities(row, emotions, bars, separate),
        )
        before = name  # windows of one file have its name once
    if len(table) > _SHOWN_ROWS:
        screen.caption = f"the first {_SHOWN_ROWS} of {len(table)} rows; --output writes all"
    return screen


def _times(shown: pd.DataFrame) -> list[str]:
    """The length of each file, or from when to when each window lasts."""
    if "start" not in shown:
        return [f"{seconds:.2f}" for seconds in shown["seconds"]]
    digits = 1 if np.allclose(shown["end"], shown["end"].round(1), atol=0.005) else 2  # the last one may end anywhere
    return [f"{start:.{digits}f}-{end:.{digits}f}" for start, end in zip(shown["start"], shown["end"], strict=True)]


@dataclass(frozen=True)
class _Name:
    """A file's name in a table, folded behind ``/ _ -`` and spaces; inside a word only where that is too long."""

    name: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        lines = [""]
        for part in re.findall(r"[^/_\- ]*[/_\- ]|[^/_\- ]+", self.name):
            if lines[-1] and cell_len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Text(self.name).__rich_measure__(console, options)


def _probabilities(row: Mapping[Any, Any], emotions: Sequence[str], bars: int, separate: bool) -> list[Text]:
    """One cell per emotion; where the screen is too narrow, one for the predicted emotion and one for all others."""
    values = {name: row[f"p_{name}"] for name in emotions}
    if separate:
        return [Text(f"{_figure(value)} {bar(value, bars)}".rstrip()) for value in values.values()]
    others = sorted((name for name in emotions if name != row["predicted"]), key=lambda name: -values[name])
    return [Text(_figure(row["confidence"])), Text("  ".join(f"{name}\xa0{_figure(values[name])}" for name in others))]


def _figure(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"


def bar(value: float, width: int) -> str:
    """A horizontal bar of ``width`` characters for 1, in eighths of a character."""
    eighths = 0 if pd.isna(value) else round(max(0.0, min(1.0, value)) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def shortest_names(paths: Sequence[str]) -> list[str]:
    """The paths without the folder that all of them share; as given where they share none."""
    whole = [Path(path).absolute() for path in paths]
    shared = os.path.commonpath([path.parent for path in whole])
    return list(paths) if shared == os.sep else [str(path.relative_to(shared)) for path in whole]


def check_supported(recognizer: Recognizer, speaker_per_folder: bool, attention: bool) -> None:
    """Refuse, before any file is read, what this model cannot do.

    Raises:
        SerError: it was not trained with statistics of speakers, or gives no attention.
    """
    if speaker_per_folder and recognizer.config.kind != "speaker":
        raise SerError(
            "--speaker-per-folder belongs to models trained with normalization=speaker, but this one was with "
            f"normalization={recognizer.config.kind}; leave it out."
        )
    if attention and recognizer(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, attention=True).attention is None:
        raise SerError("the model gives no attention, which --attention draws; use a run folder of such a network.")


def show_failures(failures: Mapping[str, str], total: int) -> None:
    """Print what was left out and why, a line each."""
    lines = [f"{len(failures)} of {total} could not be read:"]
    lines += [reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in failures.items()]
    get_console().print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def export_and_compare(
    recognizer: Recognizer, output: Path, with_encoder: bool, quantize: bool, compare: Sequence[Path]
) -> None:
    """Write an ONNX file and print how far it agrees with PyTorch on made-up sounds and on the files in ``compare``.

    Raises:
        SerError: the file is not called .onnx, cannot be written, or disagrees with PyTorch.
    """
    from ser.inference.onnx import agreement, export_onnx  # noqa: PLC0415  the packages are an extra

    if output.suffix != ".onnx":
        raise SerError(f"--output {output} ends in {output.suffix or 'nothing'!r}, expected .onnx; rename it.")
    found = export_onnx(recognizer, output, with_encoder=with_encoder, quantize=quantize)
    rows = [(name, "made up", row) for name, row in found.items()]
    if compare:
        waveforms = [first_minute(path) for path in collect_files(compare)]
        rows.append((list(found)[-1], "given", agreement(recognizer, output, waveforms)))
    table = Table("form", "sounds", "recordings", "seconds", "largest difference", "same label", box=SIMPLE_HEAD)
    table.title = "compared with PyTorch"
    for name, sounds, row in rows:
        seconds, difference = f"{row.shortest:.2f} - {row.longest:.1f}", f"{row.largest_difference:.1e}"
        table.add_row(name, sounds, str(row.recordings), seconds, difference, f"{100 * row.same_label:.1f}%")
    get_console().print(table)
    sizes = [row.size for row in found.values()]
    line = f"{output}: {sizes[-1] / 1e6:.2f} MB"
    if quantize:
        line += f", {sizes[-1] / sizes[0]:.2f} times the size in single precision ({sizes[0] / 1e6:.2f} MB)"
    get_console().print(line, highlight=False, soft_wrap=True)
    if quantize and sizes[-1] > _WORTH_IT * sizes[0]:
        log.warning("int8 does not pay for so small a network: most of the file is not weights; leave --quantize out")
