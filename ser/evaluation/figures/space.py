"""Pooled features seen from above: do they group by emotion, or by who speaks?"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ser.emotions import looks
from ser.evaluation.figures.style import FAINT, MARKERS, SERIES, drawable, new_figure, styled
from ser.evaluation.predictions import emotions_of

_FEWEST_FOR_TSNE = 12
_MOST_SPEAKERS = 28


def project(features: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Two coordinates a row, (n, P) -> (n, 2), and the name of the method.

    Columns are standardised, reduced to at most 50 principal components, then laid out by t-SNE (van der Maaten &
    Hinton 2008) with a perplexity of 30 or what the rows allow. Under 12 rows, or where all rows are alike, the first
    two principal components themselves are returned, because t-SNE has nothing to preserve there.
    """
    features = np.asarray(features, dtype=np.float64)
    deviation = features.std(axis=0)
    varying = features[:, deviation > 1e-12]
    if len(features) < 2 or varying.shape[1] == 0:
        return np.zeros((len(features), 2)), "PCA"
    scaled = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    reduced = PCA(min(50, *scaled.shape), random_state=seed).fit_transform(scaled)  # (n, <= 50)
    if len(reduced) < _FEWEST_FOR_TSNE or reduced.shape[1] < 2:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2], "PCA"
    # Fewer steps than sklearn's 1000: the layout of some hundred points no longer moves after that.
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


@styled
def feature_map(
    predictions: pd.DataFrame, features: np.ndarray, note: str = "", most: int = 500, title: str = ""
) -> Figure:
    """Pooled features in two dimensions, once coloured by emotion and once by speaker.

    Args:
        predictions: a prediction table.
        features: pooled features (n, P) in the rows of ``predictions``.
        note: a warning drawn at the foot.
        most: utterances drawn; of more, a seeded sample.
        title: which run this is.
    """
    rows = np.arange(len(predictions))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    shown = predictions.iloc[rows]
    points, method = project(features[rows])
    sampled = f", {most} of {len(predictions)} utterances" if len(predictions) > most else ""
    figure = new_figure(11, 5.2, f"Pooled features by {method}{sampled}" + (f": {title}" if title else ""), note)
    by_emotion, by_speaker = figure.subplots(1, 2)
    styles = {name: (look.color, look.marker) for name, look in looks(emotions_of(predictions)).items()}
    _scatter(by_emotion, points, shown["emotion"], styles, "by emotion")
    counts = shown["speaker"].value_counts()
    named = sorted(counts.index[:_MOST_SPEAKERS])
    speakers = {name: (SERIES[place % 8], MARKERS[place // 8 % len(MARKERS)]) for place, name in enumerate(named)}
    _scatter(by_speaker, points, shown["speaker"], speakers, "by speaker")
    return figure


def _scatter(axes: Axes, points: np.ndarray, names: pd.Series, styles: dict[str, tuple[str, str]], title: str) -> None:
    """Points by group; groups without a style are drawn as faint dots under the others."""
    others = ~names.isin(list(styles)).to_numpy()
    axes.scatter(points[others, 0], points[others, 1], s=8, color=FAINT, zorder=1)
    handles = []
    for name, (colour, marker) in styles.items():
        chosen = (names == name).to_numpy()
        if not chosen.any():
            continue
        axes.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=24,
            color=colour,
            marker=marker,
            alpha=0.85,
            linewidths=0.3,
            edgecolors="#555555",
            zorder=2,
        )
        handles.append(Line2D([], [], linestyle="", marker=marker, color=colour, label=drawable(name, 14)))
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
