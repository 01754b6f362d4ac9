"""Figures of one prediction table: emotions, speakers, groups, length, and how far confidence can be trusted."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ser.emotions import looks
from ser.evaluation.figures import style
from ser.evaluation.figures.style import Look
from ser.evaluation.predictions import emotions_of, probabilities
from ser.evaluation.report.cells import percent
from ser.evaluation.scores import calibration, scores, speaker_scores

_MOST_SPEAKERS, _MOST_GROUPS = 48, 40
MOST_WRITTEN = 30  # classes of a confusion matrix with a number in every cell
_MOST_NAMED = 120  # classes of one whose names all have room; of more each second or third has its name


@style.figure(
    "confusion",
    "Look off the diagonal: which emotion is taken for which, in utterances and in percent of the true emotion.",
)
def confusion(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Confusion matrix, rows the true emotion: counts, and percent of each row (the diagonal is the recall)."""
    return draw_confusion(np.array(scores(predictions)["confusion"]), emotions_of(predictions), note)


def draw_confusion(counts: np.ndarray, emotions: list[str], note: str = "") -> Figure:
    """The figure of confusion counts (C, C), rows the true emotion; without numbers where classes are many."""
    rates = row_rates(counts)
    side = max(3.4, matrix_side(len(emotions), 0.62) + 1.4)
    drawn = style.new_figure(2 * side + 1.4, side + 0.6, "Confusion matrix", note)
    left, right = drawn.subplots(1, 2)
    draw_matrix(left, counts / max(1, counts.max()), emotions, counts.astype(str))
    left.set_title("utterances")
    draw_matrix(right, rates, emotions)
    right.set_title("percent of the true emotion")
    return drawn


def matrix_side(classes: int, cell: float) -> float:
    """Inches of a confusion matrix; ``cell`` is for each class where its cells hold numbers."""
    return classes * cell if classes <= MOST_WRITTEN else 0.16 * min(classes, _MOST_NAMED)


def row_rates(counts: np.ndarray) -> np.ndarray:
    """Confusion counts (C, C) as fractions of each row; NaN where the true emotion does not occur."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, sums, out=np.full(counts.shape, np.nan), where=sums > 0)


def draw_matrix(axes: Axes, shades: np.ndarray, names: list[str], texts: np.ndarray | None = None) -> None:
    """Draw one confusion matrix (C, C): shades in [0, 1], and texts in the cells, by default the shades in percent."""
    axes.imshow(np.nan_to_num(shades), cmap="Blues", vmin=0, vmax=1)
    for (row, column), shade in np.ndenumerate(shades) if len(names) <= MOST_WRITTEN else ():
        text = percent(shade) if texts is None else str(texts[row, column])
        ink = "white" if np.nan_to_num(shade) > 0.55 else style.INK
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
    names = [style.drawable(name, 12) for name in names]
    look: Look = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 5 else {}
    look = look if len(names) <= MOST_WRITTEN else {"rotation": 90}
    shown = range(0, len(names), -(-len(names) // _MOST_NAMED))
    axes.set_xticks(shown, [names[place] for place in shown], **look)
    axes.set_yticks(shown, [names[place] for place in shown])
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def name_bars(axes: Axes, counts: pd.Series, width: int = 14) -> None:
    """Name horizontal bars, the first on top, by the index of ``counts``, with the counts behind the names."""
    axes.set_yticks(range(len(counts)), [f"{style.drawable(name, width)} (n={n})" for name, n in counts.items()])
    axes.set_ylim(len(counts) - 0.4, -0.6)


@style.figure(
    "speakers",
    "Bars far below the band are speakers the network fails; the line is the mean over speakers, the band one standard "
    "deviation.",
)
def speakers(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy and weighted F1 of each speaker with counts, their mean, and a band of one standard deviation.

    Of more than 48 speakers the lowest and highest 24 by accuracy are drawn; mean and band are over all.
    """
    table = speaker_scores(predictions).set_index("speaker")
    shown, some = table, ""
    if len(table) > _MOST_SPEAKERS:
        order = table["accuracy"].sort_values(kind="stable").index
        half = _MOST_SPEAKERS // 2
        shown = table.loc[[*order[:half], *order[-half:]]]
        some = f": the {half} lowest and {half} highest of {len(table)}"
    drawn = style.new_figure(10, 1.6 + 0.27 * max(2, len(shown)), f"Score of each speaker (%){some}", note)
    panels = drawn.subplots(1, 2, sharey=True)
    rows = np.arange(len(shown))
    scored = (("accuracy", "accuracy", style.BLUE), ("weighted_f1", "weighted F1", style.GREEN))
    for axes, (column, title, color) in zip(panels, scored, strict=True):
        mean, std = table[column].mean(), table[column].std(ddof=1)
        if np.isfinite(std):
            band = max(0, mean - std), min(1, mean + std)
            axes.axvspan(*band, color=style.FAINT, linewidth=0, label="mean ± one std")
        axes.barh(rows, shown[column], color=color, height=0.72)
        axes.axvline(mean, color=style.VERMILION, linewidth=1.3, label="mean over speakers")
        # At the feet of the bars: at their ends the values would lie on the mean line and the band.
        for row, value in enumerate(shown[column]):
            place, ink = (0.012, "white") if value > 0.12 else (value + 0.012, style.INK)
            axes.text(place, row, percent(value), va="center", fontsize=8, color=ink, fontweight="bold")
        axes.set_title(f"{title}: mean {100 * mean:.1f}" + (f", std {100 * std:.1f}" if np.isfinite(std) else ""))
        style.percent_axis(axes.xaxis, high=1.02)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles[::-1], labels[::-1], loc="upper right", ncols=2)
    name_bars(panels[0], shown["n"], 16)
    return drawn


@style.figure(
    "classes", "An emotion with high recall and low precision is answered too often; the reverse, too rarely."
)
def classes(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Precision, recall and F1 of each emotion, in the emotion's color and pattern."""
    emotions = emotions_of(predictions)
    result = scores(predictions)
    counts = np.array(result["confusion"]).sum(axis=1)
    styles = looks(emotions).values()
    colors, hatches = [look.color for look in styles], [look.hatch for look in styles]
    height = max(2.2, 1.3 + 0.32 * len(emotions))
    drawn = style.new_figure(10, height, "Precision, recall and F1 of each emotion (%)", note)
    panels = drawn.subplots(1, 3, sharey=True)
    rows = np.arange(len(emotions))
    for axes, column in zip(panels, ("precision", "recall", "f1"), strict=True):
        values = np.array([result[column][emotion] for emotion in emotions], dtype=float)  # None becomes NaN
        bars = axes.barh(
            rows, np.nan_to_num(values), color=colors, hatch=hatches, height=0.72, edgecolor="#FFFFFF99", linewidth=0
        )
        axes.bar_label(bars, list(map(percent, values)), fontsize=8, padding=2)
        axes.set_title("F1" if column == "f1" else column)
        style.percent_axis(axes.xaxis, high=1.16)
    name_bars(panels[0], pd.Series(counts, emotions))
    return drawn


@style.figure("groups", "Bars of one panel should be alike; a step between them is a gap between genders or sessions.")
def groups(predictions: pd.DataFrame, note: str = "") -> Figure:
    """WA and UAR by gender, by session and by corpus, with counts; a grouping with one group is left out."""
    columns = [name for name in ("gender", "session", "corpus") if name in predictions]
    known = {name: predictions[predictions[name].astype(str) != ""] for name in columns}
    known = {name: table for name, table in known.items() if table[name].nunique() > 1}
    sessions = predictions["session"].nunique()
    height = max(2.6, 1.5 + 0.36 * max(2, min(sessions, _MOST_GROUPS)))
    drawn = style.new_figure(max(7, 5 * len(known)), height, "WA and UAR of groups (%)", note)
    if not known:
        style.empty_panel(drawn.subplots(), "one group of each kind: nothing to compare")
        return drawn
    panels = drawn.subplots(1, len(known), squeeze=False)[0]
    for axes, (column, table) in zip(panels, known.items(), strict=True):
        parts = [(name, part) for name, part in table.groupby(column)][:_MOST_GROUPS]
        rows = np.arange(len(parts))
        results = [scores(part) for _, part in parts]
        for shift, score, label, color in ((-0.2, "wa", "WA", style.SKY), (0.2, "uar", "UAR", style.ORANGE)):
            values = np.array([result[score] for result in results])
            bars = axes.barh(rows + shift, values, height=0.38, color=color, label=label)
            axes.bar_label(bars, list(map(percent, values)), fontsize=8, padding=2)
        name_bars(axes, pd.Series({name: len(part) for name, part in parts}))
        style.percent_axis(axes.xaxis, high=1.16)
        axes.set_title(f"by {column}")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=2)
    return drawn


@style.figure(
    "reliability",
    "A curve under the diagonal is overconfident, one above it underconfident; bins with few utterances say little.",
)
def reliability(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy against confidence in equal bins, with the expected calibration error and the number in each bin."""
    result = calibration(predictions)
    table = result["bins"]
    title = f"Reliability: expected calibration error {100 * result['ece']:.1f}%"
    drawn = style.new_figure(5.6, 5.6, title, note)
    curve, counts = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = table[table["n"] > 0]
    curve.plot([0, 1], [0, 1], color=style.GREY, linestyle="--", linewidth=1, label="perfect calibration")
    ends = used["confidence"], used["accuracy"]
    curve.vlines(used["confidence"], *ends, color=style.VERMILION, linewidth=5, alpha=0.25, label="gap between them")
    curve.plot(used["confidence"], used["accuracy"], color=style.BLUE, marker="o", label="accuracy")
    style.percent_axis(curve.yaxis, high=1.02)
    curve.set_ylabel("accuracy (%)")
    curve.grid()
    curve.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)  # above: in the axes it would cover points
    width = table["high"] - table["low"]
    bars = counts.bar((table["low"] + table["high"]) / 2, table["n"], width=width * 0.92, color=style.GREY)
    counts.bar_label(bars, [str(n) if n else "" for n in table["n"]], fontsize=8, padding=1)
    counts.set(xlabel="confidence: largest probability (%)", ylabel="utterances", ylim=(0, table["n"].max() * 1.25))
    style.percent_axis(counts.xaxis)
    return drawn


@style.figure("confidence", "The further apart the two heaps, the more the confidence helps to find wrong answers.")
def confidence(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Confidence of right and wrong answers: the fraction of each in twenty bins, and their means."""
    largest = probabilities(predictions).max(axis=1)
    right = (predictions["emotion"] == predictions["predicted"]).to_numpy()
    result = calibration(predictions)
    drawn = style.new_figure(6.4, 3.6, "Confidence of right and wrong answers", note)
    axes = drawn.subplots()
    edges = np.linspace(0, 1, 21)
    for chosen, label, color, hatch in ((right, "right", style.BLUE, ""), (~right, "wrong", style.ORANGE, "///")):
        if not chosen.any():
            continue
        weights, mean = np.full(chosen.sum(), 1 / chosen.sum()), result[f"confidence_{label}"]
        look: Look = {"color": color, "edgecolor": color, "hatch": hatch, "alpha": 0.55}
        legend = f"{label} (n={chosen.sum()}, mean {100 * mean:.1f}%)"
        axes.hist(largest[chosen], edges.tolist(), weights=weights, label=legend, **look)
        axes.axvline(mean, color=color, linewidth=1.8, linestyle="-" if label == "right" else "--")
    style.percent_axis(axes.xaxis)
    axes.yaxis.set_major_formatter(style.PERCENT)
    axes.set(xlabel="confidence: largest probability (%)", ylabel="percent of these answers")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return drawn


@style.figure("duration", "Does the network need long utterances? Short ones usually score lower.")
def duration(predictions: pd.DataFrame, note: str = "") -> Figure:
    """UAR against the length of the utterance, in up to six groups of equal size."""
    drawn = style.new_figure(6.4, 3.6, "UAR against duration (%)", note)
    axes = drawn.subplots()
    known = predictions[predictions["seconds"] > 0]
    if known.empty:
        style.empty_panel(axes, "the table has no durations")
        return drawn
    bins = int(np.clip(len(known) // 10, 1, 6))
    group = pd.qcut(known["seconds"], bins, duplicates="drop") if known["seconds"].nunique() > 1 else known["seconds"]
    parts = [part for _, part in known.groupby(group, observed=True)]
    places = np.arange(len(parts))
    values = [scores(part)["uar"] for part in parts]
    axes.plot(places, values, color=style.BLUE, marker="o", linewidth=1.7)
    axes.axhline(scores(known)["uar"], color=style.GREY, linestyle="--", linewidth=1, label="all lengths")
    above: Look = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    for place, value in enumerate(values):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.annotate(percent(value), (place, value), **above, bbox=box)
    spans = [f"{part['seconds'].min():.1f}–{part['seconds'].max():.1f} s\nn={len(part)}" for part in parts]
    axes.set_xticks(places, spans)
    style.percent_axis(axes.yaxis, high=1.12)
    axes.set(xlim=(-0.5, len(parts) - 0.5), ylabel="UAR (%)")
    axes.grid(axis="y")
    axes.legend(loc="lower right")
    return drawn
