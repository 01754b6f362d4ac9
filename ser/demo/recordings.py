"""One uploaded recording: checked against the limits, recognised, and what is drawn of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser.data.audio import SAMPLE_RATE, duration, read_audio
from ser.demo.drawing import envelope_of
from ser.demo.models import Model
from ser.demo.texts import text
from ser.errors import SerError
from ser.inference.files import predict_long, timeline
from ser.inference.recognizer import Prediction
from ser.inference.speech_gate import SpeechGate
from ser.inference.waveforms import LONGEST_SECONDS

TIMELINE_FROM = 7.5  # seconds: shorter recordings are one stretch
WINDOW = 5.0  # seconds
_MOST_WINDOWS = 100
_LEAST_SPEECH = 0.1  # share of a recording, as for the microphone


@dataclass(frozen=True)
class Limits:
    """What one visitor may give.

    Attributes:
        megabytes: of one file.
        seconds: of one file.
        files: at once.
    """

    megabytes: float = 50.0
    seconds: float = 600.0
    files: int = 500


@dataclass(frozen=True)
class Analysis:
    """What is known of a recording.

    Attributes:
        name: of the file, as its owner calls it.
        model: name of the model that answered.
        prediction: of the whole.
        envelope: peaks (N, 2).
        quiet: no speech was found in it.
        times: start and end of each window of the timeline; empty for short recordings.
        rows: probabilities of these windows.
    """

    name: str
    model: str
    prediction: Prediction
    envelope: NDArray[np.float32]
    quiet: bool
    times: Sequence[tuple[float, float]]
    rows: Sequence[dict[str, float]]


def check_upload(path: str | Path, uploads: Path, limits: Limits, language: str) -> Path:
    """The file's path, if it was uploaded and keeps within the limits.

    Args:
        path: as the browser's request names it, which may be forged.
        uploads: folder of uploaded files.
        limits: of size and seconds.
        language: of the sentence that refuses it.

    Raises:
        SerError: it lies elsewhere (also through a link), or is too large or too long.
    """
    found = Path(path).resolve()
    if not found.is_relative_to(uploads.resolve()) or not found.is_file():
        raise SerError(text(language, "outside"))
    size = found.stat().st_size / 1e6
    if size > limits.megabytes:
        raise SerError(text(language, "too_large", name=found.name, size=size, most=limits.megabytes))
    seconds = duration(found)
    if seconds > limits.seconds:
        raise SerError(text(language, "too_long", name=found.name, seconds=seconds, most=limits.seconds))
    return found


def analyse(model: Model, path: Path, gate: SpeechGate, limits: Limits, language: str) -> Analysis:
    """Recognise a checked file.

    Raises:
        SerError: it is no audio, too short, or too long although its header did not say so.
    """
    try:
        waveform = read_audio(path, 0.0, limits.seconds + 1.0)
        seconds = len(waveform) / SAMPLE_RATE
        if seconds > limits.seconds:
            raise SerError(text(language, "too_long", name=path.name, seconds=seconds, most=limits.seconds))
        if seconds <= LONGEST_SECONDS:
            prediction = model.recognizer(waveform, SAMPLE_RATE, attention=True)
        else:
            prediction = predict_long(model.recognizer, path)
        times, rows = _windows(model, path, seconds)
    except SerError as error:
        raise SerError(without_folders(str(error), path)) from error
    quiet = gate(waveform) < _LEAST_SPEECH * seconds
    return Analysis(path.name, model.name, prediction, envelope_of(waveform.numpy()), quiet, times, rows)


def without_folders(sentence: str, path: Path) -> str:
    """A sentence that names a file by its name instead of where the server keeps it."""
    return sentence.replace(str(path), path.name)


def _windows(model: Model, path: Path, seconds: float) -> tuple[list[tuple[float, float]], list[dict[str, float]]]:
    """Times and probabilities of a timeline; each window stands for a stretch of one hop around its middle."""
    if seconds < TIMELINE_FROM:
        return [], []
    hop = max(1.0, (seconds - WINDOW) / _MOST_WINDOWS)
    table = timeline(model.recognizer, path, WINDOW, hop)
    middles = ((table["start"] + table["end"]) / 2).to_numpy()
    edges = np.concatenate(([0.0], (middles[1:] + middles[:-1]) / 2, [seconds]))
    times = [(float(start), float(end)) for start, end in pairwise(edges)]
    columns = {name: table[f"p_{name}"].to_numpy() for name in model.recognizer.emotions}
    return times, [{name: float(values[row]) for name, values in columns.items()} for row in range(len(table))]
