"""What one prediction table shows: which emotions, which speakers, which groups it serves well."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from ser.emotions import looks
from ser.evaluation.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    SKY,
    VERMILION,
    drawable,
    empty_panel,
    new_figure,
    styled,
)
from ser.evaluation.predictions import emotions_of
from ser.evaluation.scores import scores, speaker_scores

_MOST_SPEAKERS = 48


@styled
def confusion(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Confusion matrix, rows the true emotion: counts, and rates by row (their diagonal is the recall)."""
    emotions = emotions_of(predictions)
    counts = np.array(scores(predictions)["confusion"])
    rates = row_rates(counts)
    side = max(3.4, 0.62 * len(emotions) + 1.4)
    figure = new_figure(2 * side + 1.4, side + 0.6, "Confusion matrix", note)
    left, right = figure.subplots(1, 2)
    draw_matrix(left, counts / max(1, counts.max()), [[f"{cell:d}" for cell in row] for row in counts], emotions)
    left.set_title("utterances")
    draw_matrix(right, rates, rate_words(rates), emotions)
    right.set_title("share of the true emotion")
    return figure


def row_rates(counts: np.ndarray) -> np.ndarray:
    """Confusion counts (C, C) as shares of each row; NaN where the true emotion does not occur."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, sums, out=np.full(counts.shape, np.nan), where=sums > 0)


def rate_words(rates: np.ndarray) -> list[list[str]]:
    """What to write into the cells of a matrix of rates."""
    return [["–" if np.isnan(cell) else f"{cell:.2f}" for cell in row] for row in rates]


def draw_matrix(axes: Axes, shades: np.ndarray, words: list[list[str]], emotions: list[str]) -> None:
    """One confusion matrix (C, C): shades in [0, 1], words in the cells."""
    axes.imshow(np.nan_to_num(shades), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(shades.shape):
        dark = np.nan_to_num(shades[row, column]) > 0.55
        axes.text(column, row, words[row][column], ha="center", va="center", fontsize=9, color="white" if dark else INK)
    names = [drawable(emotion, 12) for emotion in emotions]
    slanted: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    if max(map(len, names)) <= 5:
        slanted = {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _write_values(axes: Axes, bars: BarContainer, values: np.ndarray) -> None:
    """The value behind the end of each bar, ``–`` where there is none."""
    axes.bar_label(bars, ["–" if np.isnan(value) else f"{value:.2f}" for value in values], fontsize=8, padding=2)


def _unit_axis(axes: Axes) -> None:
    """An axis of shares with room for the values behind the bars."""
    axes.set_xlim(0, 1.13)
    axes.set_xticks(np.linspace(0, 1, 6))


@styled
def speakers(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy and weighted F1 of each speaker with counts, their mean, and a band of one standard deviation.

    Of more than 48 speakers the lowest and highest 24 by accuracy are drawn; mean and band are always over all.
    """
    table = speaker_scores(predictions).set_index("speaker")
    shown, some = table, ""
    if len(table) > _MOST_SPEAKERS:
        order = table["accuracy"].sort_values(kind="stable").index
        half = _MOST_SPEAKERS // 2
        shown = table.loc[[*order[:half], *order[-half:]]]
        some = f": the {half} lowest and {half} highest of {len(table)}"
    figure = new_figure(10, 1.6 + 0.27 * max(2, len(shown)), f"Speakers{some}", note)
    panels = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(shown))
    for axes, (column, title, colour) in zip(
        panels, (("accuracy", "accuracy", BLUE), ("weighted_f1", "weighted F1", GREEN)), strict=True
    ):
        mean, deviation = table[column].mean(), table[column].std(ddof=1)
        if np.isfinite(deviation):
            axes.axvspan(max(0, mean - deviation), min(1, mean + deviation), color=FAINT, linewidth=0)
        axes.barh(rows, shown[column], color=colour, height=0.72)
        axes.axvline(mean, color=VERMILION, linewidth=1.3)
        # Inside the bars' feet: at their ends the numbers would lie on the mean line and the band.
        for row, value in enumerate(shown[column]):
            axes.text(
                max(0.012, 0.012 if value > 0.1 else value + 0.012),
                row,
                f"{value:.2f}",
                va="center",
                fontsize=8,
                color="white" if value > 0.1 else INK,
                fontweight="bold",
            )
        axes.set_title(f"{title}: mean {mean:.3f}" + (f", deviation {deviation:.3f}" if np.isfinite(deviation) else ""))
        axes.set_xlim(0, 1.02)
        axes.set_xticks(np.linspace(0, 1, 6))
    counted = zip(shown.index, shown["n"], strict=True)
    panels[0].set_yticks(rows, [f"{drawable(speaker, 16)} (n={count})" for speaker, count in counted])
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    return figure


@styled
def classes(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Precision, recall and F1 of each emotion, an emotion in its fixed colour."""
    emotions = emotions_of(predictions)
    result = scores(predictions)
    counts = np.array(result["confusion"]).sum(axis=1)
    colours = [look.color for look in looks(emotions).values()]
    figure = new_figure(10, max(2.2, 1.3 + 0.32 * len(emotions)), "Emotions", note)
    panels = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(emotions))
    for axes, column in zip(panels, ("precision", "recall", "f1"), strict=True):
        values = np.array([result[column][emotion] for emotion in emotions], dtype=float)  # None becomes NaN
        bars = axes.barh(rows, np.nan_to_num(values), color=colours, height=0.72, edgecolor="#555555", linewidth=0.4)
        _write_values(axes, bars, values)
        axes.set_title("F1" if column == "f1" else column)
        _unit_axis(axes)
    counted = zip(emotions, counts, strict=True)
    panels[0].set_yticks(rows, [f"{drawable(emotion, 14)} (n={count})" for emotion, count in counted])
    panels[0].set_ylim(len(emotions) - 0.4, -0.6)
    return figure


@styled
def groups(predictions: pd.DataFrame, note: str = "") -> Figure:
    """WA and UAR by gender and by session, with counts."""
    sessions = predictions["session"].nunique()
    figure = new_figure(10, max(2.6, 1.5 + 0.36 * max(2, min(sessions, 40))), "Gender and session", note)
    panels = figure.subplots(1, 2, width_ratios=(1, 1))
    for axes, column in zip(panels, ("gender", "session"), strict=True):
        known = predictions[predictions[column].astype(str) != ""]
        if known.empty:
            empty_panel(axes, f"{column}: unknown for every utterance")
            continue
        parts = [(name, part) for name, part in known.groupby(column)][:40]
        rows = np.arange(len(parts))
        results = [scores(part) for _, part in parts]
        for shift, score, label, colour in ((-0.2, "wa", "WA", SKY), (0.2, "uar", "UAR", ORANGE)):
            values = np.array([result[score] for result in results])
            _write_values(axes, axes.barh(rows + shift, values, height=0.38, color=colour, label=label), values)
        axes.set_yticks(rows, [f"{drawable(name, 14)} (n={len(part)})" for name, part in parts])
        axes.set_ylim(len(parts) - 0.4, -0.6)
        _unit_axis(axes)
        axes.set_title(f"by {column}")
    figure.legend(*panels[1].get_legend_handles_labels(), loc="upper right", ncols=2)
    return figure
