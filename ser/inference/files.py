"""Predictions of audio files and folders, in bounded memory: whole files in batches, long ones window by window."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pandas as pd
import soundfile
from torch import Tensor

from ser.data.audio import LONGEST_SECONDS, SAMPLE_RATE, duration, prepare, read_audio
from ser.data.batching import length_batches
from ser.data.normalization import SHRINKAGE_SECONDS, FrameStatistics
from ser.data.soundfiles import UNREADABLE, files_below, printable, without_converted
from ser.encoders import FrameFiles
from ser.encoders.arrays import SUFFIXES as FRAME_SUFFIXES
from ser.encoders.arrays import places
from ser.errors import SerError
from ser.inference.recognizer import Prediction, Recognizer
from ser.inference.timeline import predict_gated, predict_long, speech_of
from ser.inference.vad import SpeechGate

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {".aif", ".oga", ".opus"}
SUFFIXES |= UNREADABLE  # which are listed as failures

StatisticsOf = Callable[[Path], FrameStatistics | None]
Outcome = Prediction | str  # or the reason why there is none


@dataclass
class FilePredictions:
    """Predictions of a list of files.

    The columns are file, seconds, speech_seconds (NaN without a speech gate), predicted (an emotion or "no speech"),
    confidence, normalization, windows, and ``p_<emotion>`` in class order (NaN without speech).
    """

    table: pd.DataFrame  # one row per file in the order given
    failures: dict[str, str] = field(default_factory=dict)  # reason per file that could not be recognised

    @classmethod
    def of(cls, files: Sequence[Path], found: Mapping[Path, Outcome], emotions: Sequence[str]) -> "FilePredictions":
        """Of what predict_each gave; files that it did not come to are left out."""
        given = [(path, found[path]) for path in files if path in found]
        predictions = [(path, outcome) for path, outcome in given if isinstance(outcome, Prediction)]
        failures = {printable(path): outcome for path, outcome in given if isinstance(outcome, str)}
        return cls(_table(predictions, emotions), failures)


def collect_files(paths: Sequence[str | Path], suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Audio files among ``paths``: files as they are, folders recursively by file name ending, each file once.

    In a folder the lower-case ``suffixes`` count; hidden files and folders and macOS's ``._`` twins are skipped, and
    what was converted into a file of the same name beside it.

    Raises:
        SerError: a path does not exist, or a folder holds no such files.
    """
    check_paths(paths)
    what = "audio" if suffixes is SUFFIXES else "frame"
    named = ".wav, .flac, .mp3, .ogg" if suffixes is SUFFIXES else ", ".join(sorted(suffixes))
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        named_so = [file for file in files_below(path) if file.suffix.lower() in suffixes]
        # No pipe, which would wait for a writer; a link that leads nowhere is listed.
        inside = sorted(without_converted([file for file in named_so if file.is_file() or not file.exists()]))
        if not inside:
            remedy = "check the folder" if suffixes is SUFFIXES else "this model takes no audio but frames"
            raise SerError(f"{printable(path)} holds no {what} files, expected some of {named} ...; {remedy}.")
        found |= dict.fromkeys(inside)
    return list(found)


def check_paths(paths: Sequence[str | Path]) -> None:
    """Refuse paths that do not exist."""
    for path in paths:
        if not Path(path).exists():
            raise SerError(f"{printable(path)} does not exist, expected a file or a folder; check the path.")


def predict_file(recognizer: Recognizer, path: str | Path, statistics: FrameStatistics | None = None) -> Prediction:
    """Prediction of one file of any length; over 60 s it is the mean over windows.

    Raises:
        SerError: the file cannot be read.
    """
    ((_, outcome),) = predict_each(recognizer, [Path(path)], 60.0, 1, lambda path: statistics, None)
    if isinstance(outcome, str):
        raise SerError(outcome)
    return outcome


def predict_files(
    recognizer: Recognizer,
    paths: Sequence[str | Path],
    batch_seconds: float = 60.0,
    workers: int = 2,
    statistics_of: StatisticsOf | None = None,
    gate: SpeechGate | None = None,
) -> FilePredictions:
    """Recognise files; a bad one is listed and never stops the rest.

    At most eight batches of ``batch_seconds`` of padded audio are in memory: files are taken in portions, each sorted
    into batches of similar length, and ``workers`` threads decode ahead. Files longer than 60 s are averaged over
    windows (predict_long). Folders go through collect_files first.

    ``statistics_of`` gives the statistics that normalise the frames of a file, by default those of the training part.
    With a ``gate``, files without speech get "no speech".
    """
    files, statistics_of = [Path(path) for path in paths], statistics_of or (lambda path: None)
    found = dict(predict_each(recognizer, files, batch_seconds, workers, statistics_of, gate))
    return FilePredictions.of(files, found, recognizer.emotions)


def predict_frames(recognizer: Recognizer, paths: Sequence[str | Path], batch_seconds: float = 60.0) -> FilePredictions:
    """Recognise files of frames (L, D), for models that were trained with features=files; a bad one is listed.

    Raises:
        SerError: a path is not there or holds no frames, or all are files of audio.
    """
    encoder = recognizer.encoder
    if not isinstance(encoder, FrameFiles):
        raise SerError("this model makes its own frames, expected audio files; give it recordings.")
    frames: dict[Path, Tensor] = {}
    failures: dict[str, str] = {}
    given = collect_files(paths, FRAME_SUFFIXES)
    if any(path.suffix.lower() in SUFFIXES for path in given):
        encoder.load()  # says what this model takes
    for path in given:
        try:
            inside = {path / name: place for name, place in places(path).items()}
        except SerError as error:
            failures[printable(path)] = str(error)
            continue
        for name, place in inside.items():
            try:
                frames[name] = encoder.read(place).half().float()  # as in the cache
            except SerError as error:
                failures[printable(name)] = str(error)
    files = list(frames)
    found: dict[Path, Prediction] = {}
    for rows in length_batches([len(frames[path]) for path in files], batch_seconds * encoder.frame_rate):
        batch = [frames[files[row]] for row in rows]
        seconds = [len(utterance) / encoder.frame_rate for utterance in batch]
        found |= zip((files[row] for row in rows), recognizer.classify(batch, seconds), strict=True)
    return FilePredictions(_table([(path, found[path]) for path in files], recognizer.emotions), failures)


def _table(predictions: Sequence[tuple[Path, Prediction]], emotions: Sequence[str]) -> pd.DataFrame:
    """Rows as FilePredictions describes them."""
    columns = ["file", "seconds", "speech_seconds", "predicted", "confidence", "normalization", "windows"]
    rows = [
        (printable(path), round(p.seconds, 4), speech_of(p), p.label, p.confidence, p.normalization, p.windows,
         *(p.probabilities[name] for name in emotions))
        for path, p in predictions
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*columns, *(f"p_{name}" for name in emotions)])


def statistics_by_folder(
    recognizer: Recognizer, paths: Sequence[Path], enrol: int | None = None, shrinkage: float = SHRINKAGE_SECONDS
) -> StatisticsOf:
    """Statistics of each folder's own files among ``paths``: for corpora with one folder per speaker.

    Files that cannot be read are left out; the first minute of every file counts. With ``enrol``, so many files of each
    folder count, evenly spaced, since neighbours often share an emotion.
    """
    inside: dict[Path, list[Path]] = {}
    for path in paths:
        inside.setdefault(path.parent, []).append(path)
    folders: dict[Path, FrameStatistics] = {}
    for folder, own in inside.items():
        few = enrol if enrol is not None and enrol < len(own) else len(own)
        waveforms = map(_waveform_or_none, (own[number * len(own) // few] for number in range(few)))
        recordings = ((waveform, SAMPLE_RATE) for waveform in waveforms if waveform is not None)
        if first := next(recordings, None):
            folders[folder] = recognizer.speaker_statistics(chain([first], recordings), shrinkage)
    return lambda path: folders.get(path.parent)


def first_minute(path: str | Path) -> Tensor:
    """At most the first 60 s of a file, (N,) float32 at 16 kHz, as read_audio and prepare give and refuse it."""
    return prepare(read_audio(path, 0.0, LONGEST_SECONDS), SAMPLE_RATE)


def _waveform_or_none(path: Path) -> Tensor | None:
    try:
        return first_minute(path)
    except SerError:
        return None


def predict_each(
    recognizer: Recognizer,
    files: Sequence[Path],
    batch_seconds: float,
    workers: int,
    statistics_of: StatisticsOf,
    gate: SpeechGate | None,
) -> Iterator[tuple[Path, Outcome]]:
    """Every distinct file with its prediction or the reason why there is none, in the order they are done."""
    seconds = {path: duration(path) for path in dict.fromkeys(files)}
    long = [path for path, length in seconds.items() if length > LONGEST_SECONDS]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        portions = _portions(seconds, 4 * batch_seconds)
        ahead = _decode(pool, next(portions, []))
        while ahead:
            decoding, ahead = ahead, _decode(pool, next(portions, []))
            waveforms: dict[Path, Tensor] = {}
            for path, future in decoding.items():
                try:
                    if (waveform := future.result()) is None:
                        long.append(path)
                    else:
                        waveforms[path] = waveform
                except SerError as error:
                    yield path, _named(path, error)
            yield from _predict_portion(recognizer, waveforms, batch_seconds, statistics_of, gate)
    for path in long:
        try:
            yield path, predict_long(recognizer, path, statistics_of(path), gate)
        except SerError as error:
            yield path, _named(path, error)


def _named(path: Path, error: SerError) -> str:
    """The error message with the file's name, printable."""
    name = printable(path)
    return str(error) if str(error).startswith(name) else f"{name}: {error}"


def _portions(seconds: Mapping[Path, float], most: float) -> Iterator[list[Path]]:
    """Consecutive short files of at most ``most`` seconds together (one at least)."""
    portion: list[Path] = []
    total = 0.0
    for path, length in seconds.items():
        if length > LONGEST_SECONDS:
            continue
        if portion and total + length > most:
            yield portion
            portion, total = [], 0.0
        portion.append(path)
        total += length or LONGEST_SECONDS  # the header does not say
    if portion:
        yield portion


def _decode(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> dict[Path, "Future[Tensor | None]"]:
    return {path: pool.submit(_waveform, path) for path in paths}


def _waveform(path: Path) -> Tensor | None:
    """The file's samples; None where it turns out to be too long to be taken whole."""
    waveform = read_audio(path, 0.0, LONGEST_SECONDS + 1)  # bounded even where the header gives no length
    return None if len(waveform) > LONGEST_SECONDS * SAMPLE_RATE else prepare(waveform, SAMPLE_RATE)


def _predict_portion(
    recognizer: Recognizer,
    waveforms: Mapping[Path, Tensor],
    batch_seconds: float,
    statistics_of: StatisticsOf,
    gate: SpeechGate | None,
) -> Iterator[tuple[Path, Outcome]]:
    """Batches of similar length and equal statistics; a batch that fails is repeated file by file."""
    groups: dict[int, tuple[FrameStatistics | None, list[Path]]] = {}
    for path in waveforms:
        statistics = statistics_of(path)
        groups.setdefault(id(statistics), (statistics, []))[1].append(path)
    for statistics, paths in groups.values():
        for rows in length_batches([len(waveforms[path]) for path in paths], batch_seconds * SAMPLE_RATE):
            batch = [paths[row] for row in rows]
            try:
                found = predict_gated(recognizer, [waveforms[path] for path in batch], statistics, gate)
                yield from zip(batch, found, strict=True)
            except SerError:
                for path in batch:
                    try:
                        yield path, predict_gated(recognizer, [waveforms[path]], statistics, gate)[0]
                    except SerError as error:
                        yield path, _named(path, error)
