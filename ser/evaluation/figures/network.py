"""What a network does inside: what its pooled features group by, and where its attention is."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ser.emotions import looks
from ser.errors import SerError
from ser.evaluation.figures.style import (
    FAINT,
    GREY,
    MARKERS,
    SERIES,
    VERMILION,
    Inputs,
    drawable,
    figure,
    new_figure,
    styled,
)
from ser.evaluation.figures.sweep import Sweep
from ser.evaluation.predictions import emotions_of, read_embeddings
from ser.evaluation.runs import Run

FEATURES = (
    "Clusters by emotion on the left are wanted; clusters by speaker on the right mean that the features still tell "
    "who speaks."
)
_FEWEST_FOR_TSNE, _MOST_SPEAKERS, _MOST_MAPS, _WAVEFORM_POINTS = 12, 28, 6, 2000


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
    scaled = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    reduced = PCA(min(50, *scaled.shape), random_state=seed).fit_transform(scaled)  # (n, <= 50)
    if len(reduced) < _FEWEST_FOR_TSNE or reduced.shape[1] < 2:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2], "PCA"
    # 500 steps, not scikit-learn's 1000: the layout of some hundred points no longer moves after that.
    layout = TSNE(
        2,
        perplexity=min(30.0, (len(reduced) - 1) / 3),
        init="pca",
        learning_rate="auto",
        max_iter=500,
        random_state=seed,
        n_jobs=1,
    )
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


@figure("features", FEATURES, "sweep", _features_of_variants)
@figure("features", FEATURES, inputs=_features)
def feature_map(
    predictions: pd.DataFrame, features: np.ndarray, title: str = "", note: str = "", most: int = 500
) -> Figure:
    """Pooled features in two dimensions, colored by emotion on the left and by speaker on the right.

    Args:
        predictions: a prediction table.
        features: pooled features (n, P) in the rows of ``predictions``.
        title: which run this is.
        note: a warning drawn at the foot.
        most: utterances drawn; of more, a seeded sample.
    """
    rows = np.arange(len(predictions))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    shown = predictions.iloc[rows]
    points, method = project(features[rows])
    sampled = f", {most} of {len(predictions)} utterances" if len(predictions) > most else ""
    drawn = new_figure(11, 5.2, f"Pooled features by {method}{sampled}" + (f": {title}" if title else ""), note)
    by_emotion, by_speaker = drawn.subplots(1, 2)
    styles = {name: (look.color, look.marker) for name, look in looks(emotions_of(predictions)).items()}
    _scatter(by_emotion, points, shown["emotion"], styles, "by emotion")
    counts = shown["speaker"].value_counts()
    named = sorted(counts.index[:_MOST_SPEAKERS])
    speakers = {name: (SERIES[place % 8], MARKERS[place // 8 % len(MARKERS)]) for place, name in enumerate(named)}
    _scatter(by_speaker, points, shown["speaker"], speakers, "by speaker")
    return drawn


def _scatter(axes: Axes, points: np.ndarray, names: pd.Series, styles: dict[str, tuple[str, str]], title: str) -> None:
    """Draw points by group; groups without a style are faint dots under the others."""
    others = ~names.isin(list(styles)).to_numpy()
    axes.scatter(points[others, 0], points[others, 1], s=8, color=FAINT, zorder=1)
    handles = []
    for name, (color, marker) in styles.items():
        chosen = (names == name).to_numpy()
        if not chosen.any():
            continue
        axes.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=24,
            color=color,
            marker=marker,
            alpha=0.85,
            linewidths=0.3,
            edgecolors="#555555",
            zorder=2,
        )
        handles.append(Line2D([], [], linestyle="", marker=marker, color=color, label=drawable(name, 14)))
    if others.any():
        label = f"{names[others].nunique()} others"
        handles.append(Line2D([], [], linestyle="", marker="o", color=FAINT, label=label))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.2,
        handletextpad=0.2,
        ncols=1 + (len(handles) > 14),
        columnspacing=0.8,
        fontsize=8,
    )
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)


@styled
def attention_over_waveform(waveform: np.ndarray, sample_rate: int, attention: np.ndarray, note: str = "") -> Figure:
    """The attention weights of one utterance over its waveform.

    Args:
        waveform: samples (N,).
        sample_rate: samples per second.
        attention: a weight per frame (L,), or (L, L) with queries in rows, as ``NetworkOutput.attention`` of one
            utterance without its padding; the curve is then the attention that a frame receives, averaged over queries.
        note: a warning drawn at the foot.

    Raises:
        SerError: the shapes do not fit, or a weight is negative or not a number.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    attention = np.asarray(attention, dtype=np.float64)
    square = attention.ndim == 2 and attention.shape[0] == attention.shape[1]
    if waveform.ndim != 1 or waveform.size == 0 or attention.size == 0 or not (attention.ndim == 1 or square):
        raise SerError(
            f"got a waveform of shape {waveform.shape} and attention of shape {attention.shape}; expected "
            "(N,) samples and (L,) or (L, L) weights of one utterance, so pass them without a batch axis."
        )
    if not np.isfinite(attention).all() or (attention < 0).any():
        raise SerError(
            "the attention holds negative or missing weights; expected the softmax weights of the "
            "network, so ask it for return_attention=True and cut the padding off."
        )
    received = attention.mean(axis=0) if square else attention  # (L, L) -> (L,)
    seconds = waveform.size / sample_rate
    drawn = new_figure(9, 6.4 if square else 3.2, "Attention over the waveform", note)
    if square:
        top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        image = bottom.imshow(
            attention,
            aspect="auto",
            cmap="cividis",
            origin="lower",
            interpolation="nearest",
            extent=(0, seconds, 0, seconds),
            vmin=0,
        )
        bottom.set(xlabel="time attended to (s)", ylabel="time of the query (s)")
        drawn.colorbar(image, ax=bottom, label="weight", fraction=0.05, pad=0.01)
    else:
        top = drawn.subplots()
        top.set_xlabel("time (s)")
    _envelope(top, waveform, seconds)
    frames = (np.arange(received.size) + 0.5) * seconds / received.size
    weights = top.twinx()
    weights.plot(
        frames,
        received,
        color=VERMILION,
        linewidth=1.7,
        marker="o" if received.size == 1 else "",
        label="attention weight",
    )
    weights.axhline(1 / received.size, color=VERMILION, linewidth=0.8, linestyle=":")
    weights.set_ylim(0, max(float(received.max()) * 1.1, 1e-9))
    weights.set_ylabel("weight (dotted: uniform)", color=VERMILION)
    weights.spines["right"].set_visible(True)
    top.set_xlim(0, seconds)
    return drawn


def _envelope(axes: Axes, waveform: np.ndarray, seconds: float) -> None:
    """The waveform as the band between the smallest and largest sample of each short stretch."""
    parts = np.array_split(waveform, min(_WAVEFORM_POINTS, waveform.size))
    times = (np.arange(len(parts)) + 0.5) * seconds / len(parts)
    axes.fill_between(
        times, [part.min() for part in parts], [part.max() for part in parts], color=GREY, linewidth=0.5, edgecolor=GREY
    )
    axes.set_ylabel("amplitude")
