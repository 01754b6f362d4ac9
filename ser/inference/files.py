"""Files and folders: found, decoded in bounded memory, predicted in batches, or as a timeline."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from torch import Tensor

from ser.data.audio import SAMPLE_RATE, duration, read_audio
from ser.data.batching import length_batches
from ser.data.normalization import FrameStatistics
from ser.errors import SerError
from ser.inference.recognizer import Prediction, Recognizer
from ser.inference.waveforms import LONGEST_SECONDS, SHORTEST_SAMPLES, prepare

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {".aif", ".oga", ".opus"}
LONG_WINDOW, LONG_HOP = 10.0, 5.0  # seconds: windows that stand for a file too long to be taken whole
_WINDOWS_AT_ONCE = 16

StatisticsOf = Callable[[Path], FrameStatistics | None]


@dataclass
class FilePredictions:
    """What became of a list of files.

    Attributes:
        table: one row a file in the order given: file, seconds, predicted, confidence, normalization, windows, and
            ``p_<emotion>`` in class order.
        failures: reason of each file that could not be recognised.
    """

    table: pd.DataFrame
    failures: dict[str, str] = field(default_factory=dict)


def collect_files(paths: Sequence[str | Path]) -> list[Path]:
    """Audio files among ``paths``: files as they are, folders recursively by file name ending, each file once.

    Hidden files, hidden folders and macOS's ``._`` twins are skipped inside folders.

    Raises:
        SerError: a path does not exist, or a folder holds no audio.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise SerError(f"{path} does not exist, expected an audio file or a folder of them; check the path.")
        if not path.is_dir():
            found[path] = None
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not inside:
            raise SerError(
                f"{path} holds no audio files, expected some of {', '.join(sorted(SUFFIXES)[:6])} ...; "
                "check the folder."
            )
        found |= dict.fromkeys(inside)
    return list(found)


def predict_files(
    recognizer: Recognizer,
    paths: Sequence[str | Path],
    batch_seconds: float = 60.0,
    workers: int = 2,
    statistics_of: StatisticsOf | None = None,
    progress: Callable[[Path], None] | None = None,
) -> FilePredictions:
    """Recognise files; a bad one is listed and never stops the rest.

    At most eight batches of audio are in memory: files are taken in portions, each sorted into batches of similar
    length. Files longer than 60 s are averaged over windows (predict_long).

    Args:
        recognizer: the model.
        paths: audio files; folders go through collect_files first.
        batch_seconds: padded audio in one batch.
        workers: threads that decode ahead.
        statistics_of: statistics to normalise each file's frames with; None: the training part's.
        progress: called with each file when it is done.

    Returns:
        Table and failures.
    """
    files = [Path(path) for path in paths]
    predictions: dict[Path, Prediction] = {}
    failures: dict[Path, str] = {}
    for path, outcome in _outcomes(recognizer, files, batch_seconds, workers, statistics_of or (lambda path: None)):
        if isinstance(outcome, Prediction):
            predictions[path] = outcome
        else:
            failures[path] = outcome
        if progress is not None:
            progress(path)
    ordered = {path: predictions[path] for path in files if path in predictions}
    return FilePredictions(
        prediction_table(ordered, recognizer.emotions),
        {str(path): failures[path] for path in files if path in failures},
    )


def predict_in_order(
    recognizer: Recognizer, paths: Sequence[Path], statistics: FrameStatistics | None = None
) -> list[Prediction]:
    """Predictions of ``paths``, one a file.

    Raises:
        SerError: a file cannot be recognised.
    """
    found = dict(_outcomes(recognizer, paths, 60.0, 1, lambda path: statistics))
    for path in paths:
        if isinstance(reason := found[path], str):
            raise SerError(reason)
    return [outcome for path in paths if isinstance(outcome := found[path], Prediction)]


def prediction_table(predictions: Mapping[Path, Prediction], emotions: Sequence[str]) -> pd.DataFrame:
    """Rows as FilePredictions describes them."""
    rows = [
        {
            "file": str(path),
            "seconds": round(p.seconds, 4),
            "predicted": p.label,
            "confidence": p.confidence,
            "normalization": p.normalization,
            "windows": p.windows,
            **{f"p_{name}": value for name, value in p.probabilities.items()},
        }
        for path, p in predictions.items()
    ]
    columns = ["file", "seconds", "predicted", "confidence", "normalization", "windows"]
    return pd.DataFrame(rows, columns=[*columns, *(f"p_{name}" for name in emotions)])


def timeline(
    recognizer: Recognizer,
    path: str | Path,
    window: float = 5.0,
    hop: float = 1.0,
    statistics: FrameStatistics | None = None,
) -> pd.DataFrame:
    """Predictions of overlapping windows, reading the file window by window, so its length does not matter.

    A file shorter than the window is one window; the last window ends with the file.

    Args:
        recognizer: the model.
        path: an audio file.
        window: seconds of each window.
        hop: seconds from one window to the next.
        statistics: as for the recognizer's call.

    Returns:
        Columns start and end (seconds), predicted, confidence, ``p_<emotion>`` in class order.

    Raises:
        SerError: window or hop make no sense, or the file cannot be read.
    """
    if not (SHORTEST_SAMPLES / SAMPLE_RATE <= window <= LONGEST_SECONDS and hop > 0):
        raise SerError(
            f"a window of {window:g} s with a hop of {hop:g} s was asked for, expected a window from "
            f"{SHORTEST_SAMPLES / SAMPLE_RATE:g} to {LONGEST_SECONDS:g} s and a positive hop."
        )
    rows = []
    spans = _spans(duration(path), window, hop)
    while portion := list(islice(spans, _WINDOWS_AT_ONCE)):
        recordings = [(read_audio(path, start, end), SAMPLE_RATE) for start, end in portion]
        for (start, end), prediction in zip(
            portion, recognizer.predict_many(recordings, statistics=statistics), strict=True
        ):
            rows.append(
                {
                    "start": start,
                    "end": end or prediction.seconds,
                    "predicted": prediction.label,
                    "confidence": prediction.confidence,
                    **{f"p_{name}": value for name, value in prediction.probabilities.items()},
                }
            )
    return pd.DataFrame(rows)


def predict_long(recognizer: Recognizer, path: str | Path, statistics: FrameStatistics | None = None) -> Prediction:
    """One prediction for a file too long to be taken whole: mean probabilities of 10 s windows every 5 s.

    Windows are shorter where training cut utterances (``max_seconds``), since the rest would be cut off.

    Raises:
        SerError: the file cannot be read.
    """
    window = min(LONG_WINDOW, recognizer.config.max_seconds or LONG_WINDOW)
    table = timeline(recognizer, path, window, min(LONG_HOP, window), statistics)
    mean = table[[f"p_{name}" for name in recognizer.emotions]].to_numpy().mean(axis=0)
    source = (statistics or recognizer.config.statistics).source
    return Prediction.of(
        recognizer.emotions, mean, seconds=float(table["end"].iloc[-1]), normalization=source, windows=len(table)
    )


def statistics_by_folder(recognizer: Recognizer, paths: Sequence[Path]) -> StatisticsOf:
    """Statistics of each folder's own files among ``paths``: for corpora with a folder a speaker.

    Files that cannot be read are left out; every file's first minute counts.
    """
    folders: dict[Path, FrameStatistics] = {}
    for folder in sorted({path.parent for path in paths}):
        frames = (
            recognizer.frames([waveform])[0]
            for path in paths
            if path.parent == folder
            if (waveform := _waveform_or_none(path)) is not None
        )
        first = next(frames, None)
        if first is not None:
            folders[folder] = FrameStatistics.of_frames(_chain(first, frames))
    return lambda path: folders.get(path.parent)


def _chain(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest


def _waveform_or_none(path: Path) -> Tensor | None:
    try:
        return prepare(read_audio(path, 0.0, LONGEST_SECONDS), SAMPLE_RATE)
    except SerError:
        return None


def _outcomes(
    recognizer: Recognizer, files: Sequence[Path], batch_seconds: float, workers: int, statistics_of: StatisticsOf
) -> Iterator[tuple[Path, Prediction | str]]:
    """Every distinct file with its prediction or the reason why there is none, in the order they are done."""
    seconds = {path: duration(path) for path in dict.fromkeys(files)}
    short = [path for path, length in seconds.items() if length <= LONGEST_SECONDS]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        portions = _portions(short, seconds, 4 * batch_seconds)
        ahead = _decode(pool, next(portions, []))
        while ahead:
            decoding, ahead = ahead, _decode(pool, next(portions, []))
            waveforms: dict[Path, Tensor] = {}
            for path, future in decoding.items():
                try:
                    waveforms[path] = future.result()
                except SerError as error:
                    yield path, str(error)
            yield from _predict_portion(recognizer, waveforms, batch_seconds, statistics_of)
    for path in [path for path, length in seconds.items() if length > LONGEST_SECONDS]:
        try:
            yield path, predict_long(recognizer, path, statistics_of(path))
        except SerError as error:
            yield path, str(error)


def _decode(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> dict[Path, "Future[Tensor]"]:
    return {path: pool.submit(_prepared, path) for path in paths}


def _prepared(path: Path) -> Tensor:
    waveform = read_audio(path, 0.0, LONGEST_SECONDS + 1)  # bounded even where the header gives no length
    try:
        return prepare(waveform, SAMPLE_RATE)
    except SerError as error:
        raise SerError(f"{path}: {error}") from error


def _portions(paths: Sequence[Path], seconds: Mapping[Path, float], most: float) -> Iterator[list[Path]]:
    """Consecutive files of at most ``most`` seconds together (one at least)."""
    portion: list[Path] = []
    total = 0.0
    for path in paths:
        if portion and total + seconds[path] > most:
            yield portion
            portion, total = [], 0.0
        portion.append(path)
        total += seconds[path]
    if portion:
        yield portion


def _predict_portion(
    recognizer: Recognizer, waveforms: Mapping[Path, Tensor], batch_seconds: float, statistics_of: StatisticsOf
) -> Iterator[tuple[Path, Prediction | str]]:
    """Batches of similar length and equal statistics; a batch that fails is repeated file by file."""
    groups: dict[int, tuple[FrameStatistics | None, list[Path]]] = {}
    for path in waveforms:
        statistics = statistics_of(path)
        groups.setdefault(id(statistics), (statistics, []))[1].append(path)
    for statistics, paths in groups.values():
        for rows in length_batches([len(waveforms[path]) for path in paths], batch_seconds * SAMPLE_RATE):
            batch = [paths[row] for row in rows]
            try:
                found = recognizer.predict_batch([waveforms[path] for path in batch], statistics)
                yield from zip(batch, found, strict=True)
            except SerError:
                for path in batch:
                    try:
                        yield path, recognizer.predict_batch([waveforms[path]], statistics)[0]
                    except SerError as error:
                        yield path, f"{path}: {error}"


def _spans(seconds: float, window: float, hop: float) -> Iterator[tuple[float, float | None]]:
    """Start and end of windows; the last ends with the file, and one that is too short is a single whole."""
    if seconds <= window:
        yield 0.0, None
        return
    count = math.floor((seconds - window) / hop + 1e-9)
    for index in range(count + 1):
        yield index * hop, index * hop + window
    if seconds - (count * hop + window) > np.finfo(np.float32).eps * seconds + 1 / SAMPLE_RATE:
        yield seconds - window, seconds
