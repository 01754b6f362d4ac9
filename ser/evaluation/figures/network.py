"""What a network does inside: what its pooled features group by, and where its attention is.

The attention over some utterances is measured after training and kept as ``attention.json`` of the run.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from ser.data.soundfiles import printable
from ser.emotions import looks
from ser.errors import SerError, SyntheticVoiceWarning
from ser.evaluation.figures import style
from ser.evaluation.figures.style import Inputs, Look
from ser.evaluation.figures.sweep import Sweep
from ser.evaluation.predictions import emotions_of, probabilities, read_embeddings
from ser.evaluation.runs import Run, load_run
from ser.io import read_json, write_json

if TYPE_CHECKING:  # figures need no torch
    from ser.data.cache import FeatureCache
    from ser.data.corpus import Utterance
    from ser.encoders import Encoder
    from ser.inference.files import StatisticsOf
    from ser.inference.recognizer import Prediction, Recognizer
    from ser.inference.vad import SpeechGate

FEATURES = (
    "Clusters by emotion on the left are wanted; clusters by speaker on the right mean that the features still tell "
    "who speaks."
)
ATTENTION = (
    "The surest right and wrong answers. Weight on speech is expected; weight on silence or on a click is a reason to "
    "distrust an answer."
)
_FEWEST_FOR_TSNE, _MOST_NAMED, _MOST_MAPS = 12, 28, 6
_ATTENTION_FILE, _EACH = "attention.json", 2  # right and wrong answers in it


def project(features: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Two coordinates per row, (n, P) -> (n, 2), and the name of the method.

    Columns are standardised, reduced to at most 50 principal components, then laid out by t-SNE (van der Maaten &
    Hinton 2008) with a perplexity of 30 or what the rows allow. Under 12 rows, or where all rows are alike, the first
    two principal components are returned, because t-SNE has nothing to preserve there.
    """
    features = np.asarray(features, dtype=np.float64)
    varying = features[:, features.std(axis=0) > 1e-12]
    if len(features) < 2 or varying.shape[1] == 0:
        return np.zeros((len(features), 2)), "PCA"
    scaled = StandardScaler().fit_transform(varying)
    reduced = PCA(min(50, *scaled.shape), random_state=seed).fit_transform(scaled)  # (n, <= 50)
    if len(reduced) < _FEWEST_FOR_TSNE or reduced.shape[1] < 2:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2], "PCA"
    # 500 steps, not scikit-learn's 1000: the layout of some hundred points no longer moves after that.
    layout = TSNE(perplexity=min(30.0, (len(reduced) - 1) / 3), max_iter=500, random_state=seed, n_jobs=1)
    return layout.fit_transform(reduced), "t-SNE"


def _features(run: Run) -> Inputs:
    path = run.folder / "embeddings.npy"
    if run.metrics and path.is_file():
        yield "", (run.predictions, read_embeddings(path, len(run.predictions)))


def _features_of_variants(sweep: Sweep) -> Inputs:
    # The axes of pooled features of two trainings have nothing in common, so a map shows one run per variant.
    for name, runs in list(sweep.members.items())[:_MOST_MAPS]:
        for _, inputs in _features(runs[0]):
            yield name, (*inputs, f"{name}, fold {runs[0].fold}, seed {runs[0].seed}")


@style.figure("features", FEATURES, "sweep", _features_of_variants)
@style.figure("features", FEATURES, inputs=_features)
def feature_map(
    predictions: pd.DataFrame, features: np.ndarray, title: str = "", note: str = "", most: int = 500
) -> Figure:
    """Pooled features in two dimensions, colored by emotion on the left and by speaker on the right.

    The 28 most frequent have colors. Features are (n, P), in the rows of the predictions; of more than ``most``, a
    seeded sample is drawn.
    """
    rows = np.arange(len(predictions))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    shown = predictions.iloc[rows]
    points, method = project(features[rows])
    sampled = f", {most} of {len(predictions)} utterances" if len(predictions) > most else ""
    drawn = style.new_figure(11, 5.2, f"Pooled features by {method}{sampled}" + (f": {title}" if title else ""), note)
    by_emotion, by_speaker = drawn.subplots(1, 2)
    frequent = shown["emotion"].value_counts().index[:_MOST_NAMED]
    styles = {
        name: (look.color, look.marker) for name, look in looks(emotions_of(predictions)).items() if name in frequent
    }
    _scatter(by_emotion, points, shown["emotion"], styles, "by emotion")
    counts = shown["speaker"].value_counts()
    named = sorted(counts.index[:_MOST_NAMED])
    speakers = {
        name: (style.SERIES[place % 8], style.MARKERS[place // 8 % len(style.MARKERS)])
        for place, name in enumerate(named)
    }
    _scatter(by_speaker, points, shown["speaker"], speakers, "by speaker")
    return drawn


def _scatter(axes: Axes, points: np.ndarray, names: pd.Series, styles: dict[str, tuple[str, str]], title: str) -> None:
    """Draw points by group; groups without a style are faint dots under the others."""
    others = ~names.isin(list(styles)).to_numpy()
    if others.any():
        axes.scatter(
            points[others, 0], points[others, 1], s=8, color=style.FAINT, label=f"{names[others].nunique()} others"
        )
    for name, (color, marker) in styles.items():
        chosen = (names == name).to_numpy()
        if chosen.any():
            look: Look = {"color": color, "marker": marker, "edgecolors": "#555555", "label": style.drawable(name, 14)}
            size = 48 if marker == "*" else 24  # a star fills half of its square
            axes.scatter(points[chosen, 0], points[chosen, 1], s=size, alpha=0.85, linewidths=0.3, **look)
    columns = 1 + (len(axes.collections) > 14)
    spaces: Look = {"borderaxespad": 0.2, "handletextpad": 0.2, "columnspacing": 0.8}
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), ncols=columns, fontsize=8, **spaces)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)


@dataclass(frozen=True)
class Attended:
    """One utterance and the attention that its frames got."""

    title: str
    seconds: float
    envelope: Any  # lowest and highest samples (N, 2)
    weights: Any  # of each frame (L,)

    @classmethod
    def of(cls, name: str, waveform: Any, prediction: "Prediction", truth: str = "") -> "Attended":
        """From a waveform (N,) at 16 kHz and its prediction with attention."""
        from ser.data.audio import envelope  # noqa: PLC0415

        answer = f"{prediction.label} ({100 * prediction.confidence:.0f}%)"
        title = f"{name}: {truth}, answered {answer}" if truth else f"{name}: {answer}"
        peaks, weights = envelope(np.asarray(waveform)), np.asarray(prediction.attention)
        return cls(title, prediction.seconds, peaks.tolist(), weights.tolist())


def write_attention(folder: Path, utterances: "Iterable[Utterance]", encoder: "Encoder", cache: "FeatureCache") -> None:
    """Write ``attention.json`` about the surest right and wrong answers; nothing for a network without attention.

    The frames of the ``utterances`` are cached; the ``encoder`` is only compared with that of the run.

    Raises:
        SerError: the run or a recording cannot be read.
    """
    import torch  # noqa: PLC0415

    from ser.data.audio import SAMPLE_RATE, read_audio  # noqa: PLC0415
    from ser.inference.recognizer import Recognizer  # noqa: PLC0415

    table = load_run(folder).predictions
    table = table.assign(confidence=probabilities(table).max(axis=1)).sort_values("confidence", ascending=False)
    right = table["emotion"] == table["predicted"]
    chosen = pd.concat([table[right].head(_EACH), table[~right].head(_EACH)])
    by_id = {utterance.id: utterance for utterance in utterances}
    with warnings.catch_warnings(action="ignore", category=SyntheticVoiceWarning):
        recognizer = Recognizer.from_checkpoint(folder, encoder=encoder)
    blank = torch.zeros(8, recognizer.config.input_size)
    if recognizer.score([blank], recognizer.config.statistics, attention=True).attention is None:
        return
    found = []
    for identifier in chosen["id"]:
        utterance = by_id[identifier]
        waveform = recognizer.heard(read_audio(utterance.path, utterance.start, utterance.end))
        frames = torch.from_numpy(cache.read(identifier)).float()
        (prediction,) = recognizer.classify([frames], [len(waveform) / SAMPLE_RATE], attention=True)
        found.append(asdict(Attended.of(identifier, waveform, prediction, utterance.emotion)))
    write_json(folder / _ATTENTION_FILE, {"utterances": found})


def read_attention(folder: Path) -> list[Attended]:
    """What ``write_attention`` wrote; nothing where it did not, or the file is damaged."""
    try:
        return [Attended(**entry) for entry in (read_json(folder / _ATTENTION_FILE) or {}).get("utterances", [])]
    except TypeError:
        return []


def _attention(run: Run) -> Inputs:
    if run.metrics and (found := read_attention(run.folder)):
        yield "", (found,)


@style.figure("attention", ATTENTION, inputs=_attention)
def attention_over_waveform(utterances: Sequence[Attended], note: str = "") -> Figure:
    """The attention weight of each frame over the waveform, a panel per utterance.

    Raises:
        SerError: a weight is negative or not a number, or there are none.
    """
    drawn = style.new_figure(9, 0.6 + 1.9 * len(utterances), "Attention over the waveform", note)
    for top, one in zip(drawn.subplots(len(utterances), 1, squeeze=False).ravel(), utterances, strict=True):
        peaks, received = np.asarray(one.envelope, dtype=float), np.asarray(one.weights, dtype=float)
        if received.ndim != 1 or not received.size or not np.isfinite(received).all() or (received < 0).any():
            raise SerError(
                f"{one.title} has attention of shape {received.shape} with negative or missing weights, expected one "
                "per frame; run it again."
            )
        times = (np.arange(len(peaks)) + 0.5) * one.seconds / len(peaks)
        top.fill_between(times, peaks[:, 0], peaks[:, 1], color=style.GREY, linewidth=0.5, edgecolor=style.GREY)
        frames = (np.arange(received.size) + 0.5) * one.seconds / received.size
        weights = top.twinx()
        weights.plot(frames, received, color=style.VERMILION, linewidth=1.7, marker="o" if received.size == 1 else "")
        weights.axhline(1 / received.size, color=style.VERMILION, linewidth=0.8, linestyle=":")
        weights.set_ylim(0, max(float(received.max()) * 1.1, 1e-9))
        weights.set_ylabel("weight", color=style.VERMILION)
        weights.spines["right"].set_visible(True)
        top.set(xlim=(0, one.seconds), title=style.drawable(one.title, 90), ylabel="amplitude")
    top.set_xlabel("time (s); dotted: uniform attention")
    return drawn


def draw_attention(
    recognizer: "Recognizer",
    files: Sequence[Path],
    folder: Path,
    statistics_of: "StatisticsOf",
    gate: "SpeechGate | None",
) -> None:
    """Draw the attention over the first minute of each file with speech that can be read into ``folder``, as PNG.

    Raises:
        SerError: the folder cannot be written.
    """
    from ser.data.audio import LONGEST_SECONDS, SAMPLE_RATE  # noqa: PLC0415
    from ser.inference.files import first_minute  # noqa: PLC0415
    from ser.inference.screen import shortest_names  # noqa: PLC0415
    from ser.inference.timeline import predict_gated  # noqa: PLC0415

    for name, path in zip(shortest_names([str(path) for path in files]), files, strict=True):
        try:
            waveform = first_minute(path)
        except SerError:
            continue  # listed with the predictions
        (prediction,) = predict_gated(recognizer, [waveform], statistics_of(path), gate, attention=True)
        if prediction.attention is None:  # no speech
            continue
        first = ", first 60 s" if len(waveform) >= LONGEST_SECONDS * SAMPLE_RATE else ""
        figure = attention_over_waveform([Attended.of(f"{printable(Path(name))}{first}", waveform, prediction)])
        style.save_figure(figure, folder / name.lstrip(os.sep).replace(os.sep, "-"))
