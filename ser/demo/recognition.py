"""The models that the page offers, and their answers for uploaded files."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from ser.data.audio import LONGEST_SECONDS, SAMPLE_RATE, envelope, prepare, read_audio
from ser.data.soundfiles import UNKNOWN_FRAMES
from ser.demo import text
from ser.emotions import Emotion, looks
from ser.errors import AudioError, SerError
from ser.evaluation.runs import Run, load_run
from ser.evaluation.significance import Interval, bootstrap_interval
from ser.inference.checkpoint import PRETRAINED, find_model, run_folder
from ser.inference.files import SUFFIXES
from ser.inference.recognizer import Prediction, Recognizer
from ser.inference.timeline import predict_gated, predict_long, timeline
from ser.inference.vad import NO_SPEECH, SpeechGate

TIMELINE_FROM = 7.5  # seconds: a shorter recording has no timeline
_WINDOW, _MOST_WINDOWS = 5.0, 100  # seconds and number of the timeline's windows
# Colours of ser.emotions whose contrast with a white page is below the 3 that graphics need (WCAG 2.2).
DARKER = {"#E69F00": "#C38700", "#56B4E9": "#4999C6", "#F0E442": "#A0982C"}
HIGHEST_RATE = 192_000  # Hz
_MOST_SAMPLES = 64_000_000  # frames x channels, 256 MB when decoded: ten minutes of 48 kHz stereo


@dataclass(frozen=True)
class Model:
    """A loaded model, with the finished run it comes from and the UAR of that run's test part, if there is one."""

    name: str  # as the page lists it
    path: Path
    recognizer: Recognizer
    looks: dict[str, Emotion]  # how each emotion is drawn, its colour dark enough for a white page
    run: Run | None
    uar: Interval | None  # with its interval over speakers


class ModelShelf:
    """Models by name, each loaded when it is first chosen; one that cannot be loaded raises every time.

    ``encoder`` is the folder of the pretrained encoder, if it is not where training had it.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        encoder: str | Path | None = None,
        device: str = "cpu",
        allow_download: bool = False,
    ) -> None:
        self._paths = dict(zip(_names(paths), paths, strict=True))
        self._encoder, self._device, self._allow_download = encoder, device, allow_download
        self._loaded: dict[str, Model] = {}
        self._turn = threading.Lock()

    @property
    def names(self) -> list[str]:
        """In the order given."""
        return list(self._paths)

    def open(self, name: str) -> Model:
        """The model of that name.

        Raises:
            SerError: there is none, or it cannot be loaded.
        """
        if name not in self._paths:
            raise SerError(
                f"there is no model {name!r}, expected one of {', '.join(self.names)}; choose from the list."
            )
        with self._turn:
            if name not in self._loaded:
                path = find_model(self._paths[name])
                recognizer = Recognizer.from_checkpoint(
                    path, self._encoder, self._device, allow_download=self._allow_download
                )
                if recognizer.encoder is not None:
                    recognizer.encoder.load()
                found = {
                    key: emotion._replace(color=DARKER.get(emotion.color, emotion.color))
                    for key, emotion in looks(recognizer.emotions).items()
                }
                self._loaded[name] = Model(name, path, recognizer, found, *_results(path))
            return self._loaded[name]


def _results(path: Path) -> tuple[Run | None, Interval | None]:
    """Run folder around a checkpoint and its UAR; None where there is none or it is damaged."""
    folder = run_folder(path)
    try:
        if (folder / "metrics.json").is_file():
            run = load_run(folder)
            return run, bootstrap_interval(run.predictions)
    except SerError:
        pass
    return None, None


def _names(paths: Sequence[str | Path]) -> list[str]:
    """The last parts of each path, as many as tell them apart and at least experiment, variant, fold and seed."""
    parts = [
        [part for part in Path(path).absolute().parts if part not in ("checkpoints", "best.ckpt", "/")]
        for path in paths
    ]
    for count in range(4, 1 + max(map(len, parts), default=4)):
        names = [" / ".join(row[-count:]) for row in parts]
        names = [
            text("en", "shipped_model") if Path(path) == PRETRAINED else name
            for name, path in zip(names, paths, strict=True)
        ]
        if len(set(names)) == len(names):
            return names
    return [f"{place}: {path}" for place, path in enumerate(paths, start=1)]


@dataclass(frozen=True)
class Limits:
    """What one visitor may upload."""

    megabytes: float = 50.0  # of one file
    seconds: float = 600.0  # of one file
    files: int = 500  # at once


@dataclass(frozen=True)
class Analysis:
    """The answer for one recording, and what is drawn of it."""

    path: Path  # of the file
    model: str  # name of the model that answered
    seconds: float
    prediction: Prediction | None  # of the whole; None where there is no speech
    envelope: NDArray[np.float32]  # peaks (N, 2), lowest and highest
    times: Sequence[tuple[float, float]]  # of each stretch of the timeline; empty for short recordings
    rows: Sequence[dict[str, float] | None]  # probabilities of each stretch; None where there is no speech


def check_upload(path: str | Path, uploads: Path, limits: Limits, language: str) -> Path:
    """The path of a file that was uploaded and keeps within the limits, judged by its header before decoding.

    The path is that of the browser's request and may be forged; ``language`` is that of the error message.

    Raises:
        SerError: the file lies elsewhere (also through a link), or is too large, too long or of too high a rate.
    """
    found = Path(path).resolve()
    if not found.is_relative_to(uploads.resolve()) or not found.is_file():
        raise SerError(text(language, "outside"))
    size = found.stat().st_size / 1e6
    if size > limits.megabytes:
        raise SerError(text(language, "too_large", name=found.name, size=size, most=limits.megabytes))
    try:
        header = soundfile.info(str(found))
    except (soundfile.SoundFileError, TypeError, OSError):
        return found  # the decoder reports its fault
    rate, channels = header.samplerate, header.channels
    seconds = header.frames / rate
    frames = min(header.frames, (limits.seconds + 1) * rate)  # a stream's header may promise any number
    if rate > HIGHEST_RATE or frames * channels > _MOST_SAMPLES:
        raise SerError(text(language, "too_dense", name=found.name, rate=rate, channels=channels))
    if seconds > limits.seconds and header.frames < UNKNOWN_FRAMES:
        raise SerError(text(language, "too_long", name=found.name, seconds=seconds, most=limits.seconds))
    return found


def analyse(model: Model, path: Path, gate: SpeechGate, limits: Limits, language: str) -> Analysis:
    """Recognise a checked file.

    Raises:
        SerError: it is no audio, too short, or longer than its header said.
    """
    waveform, prediction = _answer(model, path, gate, limits, language, attention=True)
    seconds = len(waveform) / SAMPLE_RATE
    times: list[tuple[float, float]] = []
    rows: list[dict[str, float] | None] = []
    if prediction is not None and seconds >= TIMELINE_FROM:
        hop = max(1.0, (seconds - _WINDOW) / _MOST_WINDOWS)
        table = timeline(model.recognizer, path, _WINDOW, hop, gate=gate)
        middles = ((table["start"] + table["end"]) / 2).to_numpy()
        edges = np.concatenate(([0.0], (middles[1:] + middles[:-1]) / 2, [seconds]))
        times = [(float(start), float(end)) for start, end in pairwise(edges)]
        probabilities = table[[f"p_{name}" for name in model.recognizer.emotions]].to_numpy()
        for row in probabilities:
            found = dict(zip(model.recognizer.emotions, map(float, row), strict=True))
            rows.append(None if np.isnan(row).any() else found)
    return Analysis(path, model.name, seconds, prediction, envelope(waveform.numpy()), times, rows)


def recognise_files(
    model: Model,
    gate: SpeechGate,
    paths: Sequence[str],
    uploads: Path,
    limits: Limits,
    language: str,
    done: Callable[[float, Path | None, float, dict[str, float]], None],
) -> pd.DataFrame:
    """One row per file in the order given: file, seconds, predicted, confidence, reason, p_<emotion>.

    A file that cannot be recognised, and one that is not audio by its name, has only a reason; predicted is empty
    where there is no speech.

    ``done`` is called after each file with the fraction that is done and, where it was recognised, path, seconds
    and probabilities (none without speech).

    Raises:
        SerError: there is no audio among them, or there are too many.
    """
    audio = [path for path in paths if Path(path).suffix.lower() in SUFFIXES and not Path(path).name.startswith(".")]
    if not audio:
        raise SerError(text(language, "folder_no_audio" if paths else "folder_none"))
    if len(audio) > limits.files:
        raise SerError(text(language, "too_many", count=len(audio), most=limits.files))
    rows = []
    for count, name in enumerate(audio, start=1):
        row: dict[str, object] = {"file": Path(name).name}
        try:
            path = check_upload(name, uploads, limits, language)
            waveform, prediction = _answer(model, path, gate, limits, language)
            seconds = len(waveform) / SAMPLE_RATE
            found = prediction.probabilities if prediction else {}
            row |= {"seconds": seconds, "predicted": prediction.label if prediction else None}
            row |= {"confidence": prediction.confidence if prediction else None}
            row |= {f"p_{emotion}": value for emotion, value in found.items()}
            done(count / len(audio), path, seconds, found)
        except SerError as error:
            row["reason"] = str(error)
            done(count / len(audio), None, 0.0, {})
        rows.append(row)
    ignored = [Path(path).name for path in paths if path not in audio]
    rows += [{"file": name, "reason": text(language, "ignored")} for name in ignored]
    classes = [f"p_{name}" for name in model.recognizer.emotions]
    return pd.DataFrame(rows, columns=["file", "seconds", "predicted", "confidence", "reason", *classes])


def _answer(
    model: Model, path: Path, gate: SpeechGate, limits: Limits, language: str, attention: bool = False
) -> tuple[Tensor, Prediction | None]:
    """The waveform (N,) at 16 kHz of a checked file and its prediction, None without speech."""
    prediction = None
    try:
        waveform = read_audio(path, 0.0, limits.seconds + 1.0)
        seconds = len(waveform) / SAMPLE_RATE
        if seconds <= min(LONGEST_SECONDS, limits.seconds):
            waveform = prepare(waveform, SAMPLE_RATE)
            (prediction,) = predict_gated(model.recognizer, [waveform], None, gate, attention)
        elif seconds <= limits.seconds:
            prediction = predict_long(model.recognizer, path, gate=gate)
    except SerError as error:  # no path of the server in a message to visitors
        if isinstance(error, AudioError):
            raise SerError(text(language, f"audio_{error.fault}", name=path.name)) from error
        raise SerError(text(language, "unreadable", reason=str(error).replace(str(path), path.name))) from error
    if seconds > limits.seconds:
        raise SerError(text(language, "too_long", name=path.name, seconds=seconds, most=limits.seconds))
    return waveform, None if prediction is None or prediction.label == NO_SPEECH else prediction
