"""How far the probabilities can be believed, and how the score depends on the length of an utterance."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ser.evaluation.figures.style import BLUE, FAINT, GREY, INK, ORANGE, VERMILION, empty_panel, new_figure, styled
from ser.evaluation.predictions import probabilities
from ser.evaluation.scores import calibration, scores


@styled
def reliability(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Accuracy against confidence in equal bins, with the expected calibration error and the number in each bin."""
    result = calibration(predictions)
    table = pd.DataFrame(result["bins"]).astype({"confidence": float, "accuracy": float})
    figure = new_figure(5.4, 5.6, f"Reliability: ECE {result['ece']:.3f}", note)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = table[table["n"] > 0]
    curve.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    curve.vlines(
        used["confidence"],
        used[["confidence", "accuracy"]].min(axis=1),
        used[["confidence", "accuracy"]].max(axis=1),
        color=VERMILION,
        linewidth=5,
        alpha=0.25,
        label="gap",
    )
    curve.plot(used["confidence"], used["accuracy"], color=BLUE, marker="o", label="accuracy in the bin")
    curve.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    curve.grid(color=FAINT, linewidth=0.6)
    curve.legend(loc="best")
    width = table["high"] - table["low"]
    bars = counts.bar((table["low"] + table["high"]) / 2, table["n"], width=width * 0.92, color=GREY)
    counts.bar_label(bars, [str(n) if n else "" for n in table["n"]], fontsize=8, padding=1)
    counts.set(xlabel="confidence (largest probability)", ylabel="utterances", ylim=(0, table["n"].max() * 1.25))
    return figure


@styled
def confidence(predictions: pd.DataFrame, note: str = "") -> Figure:
    """How confident right and wrong answers are: the share of each in twenty bins, and their means."""
    largest = probabilities(predictions).max(axis=1)
    right = (predictions["emotion"] == predictions["predicted"]).to_numpy()
    result = calibration(predictions)
    figure = new_figure(6.4, 3.6, "Confidence of right and wrong answers", note)
    axes = figure.subplots()
    edges = np.linspace(0, 1, 21)
    for chosen, label, colour, hatch in ((right, "right", BLUE, ""), (~right, "wrong", ORANGE, "///")):
        if not chosen.any():
            continue
        weights = np.full(chosen.sum(), 1 / chosen.sum())
        mean = result[f"confidence_{label}"]
        axes.hist(
            largest[chosen],
            edges.tolist(),
            weights=weights,
            color=colour,
            alpha=0.55,
            edgecolor=colour,
            hatch=hatch,
            label=f"{label} (n={chosen.sum()}, mean {mean:.2f})",
        )
        axes.axvline(mean, color=colour, linewidth=1.8, linestyle="-" if label == "right" else "--")
    axes.set(xlim=(0, 1), xlabel="confidence (largest probability)", ylabel="share of the answers")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@styled
def duration(predictions: pd.DataFrame, note: str = "") -> Figure:
    """UAR against the length of the utterance, in up to six groups of equal size."""
    figure = new_figure(6.4, 3.6, "UAR against duration", note)
    axes = figure.subplots()
    known = predictions[predictions["seconds"] > 0]
    if known.empty:
        empty_panel(axes, "the table has no durations")
        return figure
    bins = int(np.clip(len(known) // 10, 1, 6))
    group = pd.qcut(known["seconds"], bins, duplicates="drop") if known["seconds"].nunique() > 1 else known["seconds"]
    parts = [part for _, part in known.groupby(group, observed=True)]
    places = np.arange(len(parts))
    values = [scores(part)["uar"] for part in parts]
    axes.plot(places, values, color=BLUE, marker="o", linewidth=1.7)
    axes.axhline(scores(known)["uar"], color=GREY, linestyle="--", linewidth=1, label="all lengths")
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.2f}",
            (place, value),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    spans = [f"{part['seconds'].min():.1f}–{part['seconds'].max():.1f} s\nn={len(part)}" for part in parts]
    axes.set_xticks(places, spans)
    axes.set(ylim=(0, 1.12), xlim=(-0.5, len(parts) - 0.5), ylabel="UAR")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(loc="lower right")
    return figure
