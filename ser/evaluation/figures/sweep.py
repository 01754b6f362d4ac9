"""Figures that compare the variants of a sweep: intervals, runs, emotions, speakers, confusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ser.evaluation.figures import style
from ser.evaluation.figures.run import draw_matrix, matrix_side, row_rates
from ser.evaluation.figures.style import Inputs, Look
from ser.evaluation.predictions import emotions_of
from ser.evaluation.report.cells import measured
from ser.evaluation.runs import Run, by_variant, pooled
from ser.evaluation.scores import scores, speaker_scores
from ser.evaluation.summary import Summary

RADAR = "A dent towards the centre is an emotion that is served worse than the others."
_MOST_COLUMNS = 40


@dataclass(frozen=True)
class Sweep:
    """Runs with their summary: what these figures are drawn of."""

    runs: Sequence[Run]
    summary: Summary

    @cached_property
    def members(self) -> dict[str, list[Run]]:
        """The runs of each variant, in the order of the summary."""
        found = by_variant(self.runs)
        return {name: found[name] for name in self.summary.variants["variant"]}

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The pooled predictions of each variant."""
        return {name: pooled(runs) for name, runs in self.members.items()}


def _pooled_uar(sweep: Sweep) -> Inputs:
    table = sweep.summary.variants.set_index("variant")[["uar_pooled", "uar_pooled_low", "uar_pooled_high"]]
    table = table.set_axis(["value", "low", "high"], axis="columns")
    every = {run.fold for run in sweep.runs}
    own = {name: {run.fold for run in runs} for name, runs in sweep.members.items()}
    total = max(len(every), *(int(run.split.get("folds") or 0) for run in sweep.runs))
    lacking = ["" if own[name] == every else f"{len(own[name])} of {total} folds" for name in table.index]
    yield "", (table.assign(baseline=table.index == sweep.summary.baseline, folds=lacking),)


def _each_run(sweep: Sweep) -> Inputs:
    rows = [(name, run.test["uar"], run.test["wa"]) for name, runs in sweep.members.items() for run in runs]
    yield "", (pd.DataFrame(rows, columns=["variant", "uar", "wa"]),)


def _recalls(sweep: Sweep) -> Inputs:
    means = {
        name: pd.DataFrame([run.test["recall"] for run in runs]).astype(float).mean()
        for name, runs in sweep.members.items()
    }
    yield "", (pd.DataFrame(means).T, "Balance of the emotions: recall, mean over runs (%)")


def _classes(run: Run) -> Inputs:
    columns = {name: run.test[key] for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))}
    yield "", (pd.DataFrame(columns).astype(float).T, "Balance of the emotions: precision, recall, F1 (%)")


def _tables(sweep: Sweep) -> Inputs:
    yield "", (sweep.tables,)


@style.figure(
    "ladder",
    "Intervals over speakers. Whether a variant differs from the baseline is told by the paired tests of the summary, "
    "not by overlapping intervals.",
    "sweep",
    _pooled_uar,
)
def ladder(table: pd.DataFrame, note: str = "") -> Figure:
    """Forest plot: each variant's UAR with its interval, the baseline's as a dashed line.

    The table is indexed by variant, with columns ``value``, ``low``, ``high`` (NaN: no interval), ``baseline`` (bool)
    and ``folds`` (which folds, of a variant that lacks some; else empty).
    """
    drawn = style.new_figure(9, 1.4 + 0.5 * max(2, len(table)), "UAR of each variant, pooled over folds (%)", note)
    axes = drawn.subplots()
    rows = np.arange(len(table))
    baseline = table["baseline"].to_numpy(dtype=bool)
    values = table["value"].to_numpy(dtype=float)
    low, high = table["low"].to_numpy(dtype=float), table["high"].to_numpy(dtype=float)
    axes.hlines(rows, low, high, color=np.where(baseline, style.GREY, style.BLUE), linewidth=2.4)
    axes.scatter(values, rows, color=np.where(baseline, style.GREY, style.BLUE), s=48, zorder=3)
    axes.axvline(values[baseline][0], color=style.GREY, linestyle="--", linewidth=1)
    ends = np.nanmax(np.where(np.isnan(high), values, high)), np.nanmin(np.where(np.isnan(low), values, low))
    span = max(0.05, ends[0] - ends[1])
    axes.set_xlim(max(-0.01, ends[1] - 0.08 * span), min(1.01, ends[0] + 0.08 * span))
    axes.xaxis.set_major_formatter(style.PERCENT)
    for row, (value, lower, upper) in enumerate(zip(values, low, high, strict=True)):
        text = measured(value, lower, upper)
        axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    names = []
    for label, base, remark in zip(style.variant_labels(table.index), baseline, table["folds"], strict=True):
        told = [remark] if remark else []
        told += ["baseline"] if base and (remark or "\n" not in label) else []
        names.append(f"{label}\n({', '.join(told)})" if told else label)
    axes.set_yticks(rows, names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.set_xlabel("UAR (%) with 95% interval over speakers")
    return drawn


@style.figure(
    "folds", "Every dot is a run; compare the width of the boxes with the distance between them.", "sweep", _each_run
)
def folds(table: pd.DataFrame, note: str = "") -> Figure:
    """Box plots of UAR and WA over runs (folds and seeds), one box per variant, every run a point.

    The table has a row per run and the columns ``variant``, ``uar`` and ``wa``.
    """
    names = list(dict.fromkeys(table["variant"]))
    drawn = style.new_figure(10, 1.6 + 0.5 * max(2, len(names)), "UAR and WA of each run (%)", note)
    panels = drawn.subplots(1, 2, sharey=True, sharex=True)
    rows = np.arange(len(names))
    scored = (("uar", "UAR", style.ORANGE), ("wa", "WA", style.SKY))
    for axes, (column, title, color) in zip(panels, scored, strict=True):
        values = [table.loc[table["variant"] == name, column].dropna().to_numpy() for name in names]
        look: Look = {"widths": 0.6, "patch_artist": True, "showfliers": False}
        look |= {"boxprops": {"facecolor": color, "alpha": 0.45}, "medianprops": {"color": style.INK, "linewidth": 1.5}}
        axes.boxplot(values, positions=rows, orientation="horizontal", **look)
        for row, points in enumerate(values):
            spread = np.random.default_rng(row).uniform(-0.14, 0.14, len(points))
            axes.scatter(points, row + spread, s=12, color=style.INK, alpha=0.6, linewidths=0, zorder=3)
        axes.set_title(title)
        axes.xaxis.set_major_formatter(style.PERCENT)
        axes.grid(axis="x")
    counts = table["variant"].value_counts()
    counted = zip(style.variant_labels(names), names, strict=True)
    panels[0].set_yticks(rows, [f"{label} ({counts[name]})" for label, name in counted])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return drawn


@style.figure("radar", RADAR, "sweep", _recalls)
@style.figure("radar", RADAR, inputs=_classes)
def radar(table: pd.DataFrame, title: str, note: str = "") -> Figure:
    """One polygon per row with the columns as spokes, 0 at the center, 1 at the rim; bars for one or two columns."""
    names, labels = [style.drawable(column, 14) for column in table.columns], style.variant_labels(table.index)
    lines = [line for label in labels for line in label.split("\n")]
    colors = [style.SERIES[place % len(style.SERIES)] for place in range(len(table))]
    drawn = style.new_figure(5.8 + 0.085 * max(map(len, lines)), max(4.6, 1.3 + 0.19 * len(lines)), title, note)
    if len(names) < 3:
        axes = drawn.subplots()
        width = 0.8 / len(table)
        for place, (_, values) in enumerate(table.iterrows()):
            spokes = np.arange(len(names)) + (place - (len(table) - 1) / 2) * width
            hatch = "///" if place >= len(style.SERIES) else ""
            axes.bar(spokes, values, width, label=labels[place], color=colors[place], hatch=hatch)
        axes.set_xticks(range(len(names)), names)
        style.percent_axis(axes.yaxis)
    else:
        axes = drawn.add_subplot(projection="polar")
        angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
        for place, (_, values) in enumerate(table.iterrows()):
            heights = values.fillna(0).to_numpy(dtype=float)
            look: Look = {"color": colors[place], "marker": style.MARKERS[place % len(style.MARKERS)]}
            look |= {"linestyle": "-" if place < len(style.SERIES) else "--", "label": labels[place]}
            axes.plot([*angles, angles[0]], [*heights, heights[0]], linewidth=1.6, markersize=4, **look)
            if len(table) == 1:
                axes.fill(angles, heights, color=style.SERIES[0], alpha=0.15)
        axes.set_xticks(angles, names)
        rings = [0.2, 0.4, 0.6, 0.8, 1.0]
        axes.set_yticks(rings, [])  # labels of ticks would lie below the lines
        axes.set_ylim(0, 1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        written: Look = {"fontsize": 8, "ha": "center", "va": "center", "bbox": box, "zorder": 5}
        for ring in rings:
            axes.text(np.pi / len(names), ring, f"{100 * ring:.0f}", **written)
        axes.tick_params(axis="x", pad=9)
    axes.grid(linewidth=0.8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.16, 1.02))
    return drawn


@style.figure(
    "speaker_matrix",
    "Dark columns are speakers that every variant finds hard; look for variants that help them.",
    "sweep",
    _tables,
)
def speaker_matrix(tables: Mapping[str, pd.DataFrame], note: str = "") -> Figure:
    """Accuracy of every speaker (columns, hardest first) under every variant (rows)."""
    series = {name: speaker_scores(table).set_index("speaker")["accuracy"] for name, table in tables.items()}
    accuracy = pd.DataFrame(series).T
    accuracy = accuracy[accuracy.mean().sort_values(kind="stable").index]
    columns, some = accuracy.shape[1], ""
    if columns > _MOST_COLUMNS:
        accuracy, some = accuracy.iloc[:, :_MOST_COLUMNS], f": the {_MOST_COLUMNS} hardest of {columns}"
    width, height = max(6.5, 3 + 0.36 * accuracy.shape[1]), 2.1 + 0.5 * len(accuracy)
    drawn = style.new_figure(width, height, f"Accuracy of each speaker (%){some}", note)
    axes = drawn.subplots()
    image = axes.imshow(accuracy, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(accuracy.to_numpy(dtype=float)):
        if not np.isnan(value):
            look: Look = {"ha": "center", "va": "center", "fontsize": 8, "color": "white" if value < 0.5 else style.INK}
            axes.text(column, row, f"{100 * value:.0f}", **look)
    axes.set_yticks(range(len(accuracy)), style.variant_labels(accuracy.index))
    speakers = [style.drawable(name, 14) for name in accuracy.columns]
    axes.set_xticks(range(len(speakers)), speakers, rotation=60, ha="right", rotation_mode="anchor")
    bar = drawn.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    style.percent_axis(bar.ax.yaxis)
    return drawn


@style.figure("confusions", "Which mistakes a variant removes, and which it adds.", "sweep", _tables)
def confusions(tables: Mapping[str, pd.DataFrame], note: str = "") -> Figure:
    """The confusion matrix of every variant in percent of the true emotion, three in a row."""
    emotions = emotions_of(next(iter(tables.values())))
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    side = max(2.9, matrix_side(len(emotions), 0.5) + 1.2)
    labels = style.variant_labels(tables, width=28)  # of panels of 2.9 inches
    titles = 0.2 + 0.15 * max(label.count("\n") for label in labels)
    width, height = max(4.5, columns * side), rows * (side + titles) + 0.4
    drawn = style.new_figure(width, height, "Confusion (% of the true emotion)", note)
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    for axes, label, table in zip(panels, labels, tables.values(), strict=False):
        rates = row_rates(np.array(scores(table)["confusion"]))
        draw_matrix(axes, rates, emotions_of(table))
        axes.set_title(label, fontsize=9)
    return drawn
