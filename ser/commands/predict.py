"""Recognise files and folders: ``ser predict a.wav folder/ --checkpoint outputs/.../fold1/seed1``."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from ser.commands.values import positive_number
from ser.errors import SerError
from ser.inference.files import collect_files, predict_files, statistics_by_folder, timeline
from ser.inference.recognizer import Recognizer
from ser.io import atomic_path, write_text

PARTLY_FAILED = 3  # exit code: everything readable was recognised, but some files were not
_SHOWN_ROWS = 200


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where it computes."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder, .ckpt, exported folder or .onnx file"
    )
    parser.add_argument(
        "--encoder", metavar="FOLDER", help="folder or Hub id of the pretrained encoder, if not where training had it"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, model, windows, output."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, and folders, which are searched")
    add_model_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="also write the table: .csv or .json")
    parser.add_argument(
        "--window",
        type=positive_number,
        metavar="SECONDS",
        help="a timeline: windows of this length (files over 60 s are otherwise averaged over windows)",
    )
    parser.add_argument(
        "--hop",
        type=positive_number,
        default=1.0,
        metavar="SECONDS",
        help="from one window of a timeline to the next (default: 1)",
    )
    parser.add_argument(
        "--batch-seconds",
        type=positive_number,
        default=60.0,
        metavar="SECONDS",
        help="padded audio in one batch (default: 60)",
    )
    parser.add_argument("--workers", type=int, default=2, help="threads that decode ahead (default: 2)")
    parser.add_argument(
        "--speaker-per-folder",
        action="store_true",
        help="models trained with normalization=speaker: each folder holds one speaker's files",
    )


def run(arguments: argparse.Namespace) -> int:
    """Recognise, show, write."""
    output = None if arguments.output is None else _checked_output(arguments.output)
    files = collect_files(arguments.paths)
    recognizer = Recognizer.from_checkpoint(arguments.checkpoint, arguments.encoder, arguments.device)
    table, failures = _recognise(recognizer, files, arguments)
    _show(table, recognizer.emotions)
    if recognizer.config.kind == "speaker" and not arguments.speaker_per_folder:
        get_console().print(
            "the model was trained with each speaker's own statistics, but the training part's were "
            "used; if each folder holds one speaker's files, add --speaker-per-folder"
        )
    if output is not None:
        write_table(output, table)
        get_console().print(f"{len(table)} rows in {output}", highlight=False)
    if not failures:
        return 0
    listed = Table("file", "reason", title=f"{len(failures)} of {len(files)} could not be recognised")
    for path, reason in failures.items():
        listed.add_row(Text(path, overflow="fold"), Text(reason))
    get_console().print(listed)
    return PARTLY_FAILED


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV or JSON records, whole or not at all."""
    if path.suffix.lower() == ".json":
        write_text(path, table.to_json(orient="records", indent=2, force_ascii=False, double_precision=15) + "\n")
        return
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def bar(value: float, width: int) -> str:
    """A horizontal bar of ``width`` characters for 1, in eighths of a character."""
    eighths = round(max(0.0, min(1.0, value)) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _recognise(
    recognizer: Recognizer, files: Sequence[Path], arguments: argparse.Namespace
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of predictions, or of windows, and what failed."""
    statistics_of = statistics_by_folder(recognizer, files) if arguments.speaker_per_folder else None
    columns = TextColumn("recognising"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=get_console(), transient=True) as progress:
        task = progress.add_task("", total=len(files))
        if arguments.window is None:
            found = predict_files(
                recognizer,
                files,
                arguments.batch_seconds,
                arguments.workers,
                statistics_of,
                lambda path: progress.advance(task),
            )
            return found.table, found.failures
        tables: list[pd.DataFrame] = []
        failures: dict[str, str] = {}
        for path in files:
            try:
                rows = timeline(
                    recognizer,
                    path,
                    arguments.window,
                    arguments.hop,
                    None if statistics_of is None else statistics_of(path),
                )
                rows.insert(0, "file", str(path))
                tables.append(rows)
            except SerError as error:
                failures[str(path)] = str(error)
            progress.advance(task)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), failures


def _show(table: pd.DataFrame, emotions: Sequence[str]) -> None:
    """The first rows, with a bar for every probability."""
    if table.empty:
        return
    timed = "start" in table
    console = get_console()
    width = 10 if console.width >= 120 else 4  # characters of a bar
    longest = max(map(len, emotions))
    room = max(
        12, console.width - 25 - longest - len(emotions) * (width + 6)
    )  # the end of a path tells more than its start
    shown = _short_names(table["file"].head(_SHOWN_ROWS).tolist())
    screen = Table(
        Column("file", overflow="ellipsis", no_wrap=True, ratio=1),  # gives way to the figures
        Column("seconds", justify="right"),
        Column("emotion", min_width=longest + 1),
        Column("confidence", no_wrap=True),
        *(Column(name, no_wrap=True, min_width=width + 5) for name in emotions),
        box=SIMPLE_HEAD,
        padding=0,
    )
    for name, row in zip(shown, table.head(_SHOWN_ROWS).to_dict(orient="records"), strict=True):
        when = f"{row['start']:.1f}-{row['end']:.1f}" if timed else f"{row['seconds']:.2f}"
        bars = [Text(f"{row[f'p_{emotion}']:.2f} {bar(row[f'p_{emotion}'], width)}") for emotion in emotions]
        screen.add_row(
            Text(name if len(name) <= room else f"…{name[1 - room :]}"),
            f" {when}",
            Text(f" {row['predicted']}", style="bold"),
            f"{row['confidence']:.2f}",
            *bars,
        )
    if len(table) > _SHOWN_ROWS:
        screen.caption = f"the first {_SHOWN_ROWS} of {len(table)} rows; --output writes all"
    console.print(screen)


def _short_names(paths: Sequence[str]) -> list[str]:
    """The paths without the folder that all of them share."""
    whole = [Path(path).absolute() for path in paths]
    shared = os.path.commonpath([path.parent for path in whole])
    return [str(path.relative_to(shared)) for path in whole]


def _checked_output(name: str) -> Path:
    path = Path(name)
    if path.suffix.lower() not in (".csv", ".json"):
        raise SerError(f"--output {name} ends in {path.suffix or 'nothing'!r}, expected .csv or .json; rename it.")
    return path
