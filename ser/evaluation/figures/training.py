"""Learning curves: of a run by epoch, and of variants by the training speakers and utterances of their runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ser.config import name_parts
from ser.errors import SerError
from ser.evaluation.figures import style
from ser.evaluation.figures.style import Inputs, Look
from ser.evaluation.report.cells import short_names
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import curve_table
from ser.evaluation.runs import WARNINGS, Run, by_variant, declared, find_runs, pooled
from ser.evaluation.significance import bootstrap_interval
from ser.io import write_text

Line = tuple[str, str, str, str]  # column of history.csv, name, colour, dashes
_TRAIN, _VALIDATION = ("train", style.BLUE, "-"), ("validation", style.ORANGE, "-")
ALPHA, GRADIENT = "alpha of the gradient reversal", "gradient norm"  # with and without an adversary
_PANELS: dict[str, tuple[Line, ...]] = {
    "loss": (
        ("train/loss", *_TRAIN),
        ("train/emotion_loss", "train, emotion part", style.SKY, "--"),
        ("train/speaker_loss", "train, speaker part", style.PURPLE, ":"),
        ("val/loss", *_VALIDATION),
    ),
    "UAR (%)": (("train/uar", *_TRAIN), ("val/uar", *_VALIDATION), ("test/uar", "test (only shown)", style.GREY, ":")),
    "WA (%)": (("train/wa", *_TRAIN), ("val/wa", *_VALIDATION)),
    "macro F1 (%)": (("train/f1", *_TRAIN), ("val/f1", *_VALIDATION)),
    "learning rate": (("learning_rate", "learning rate", style.GREEN, "-"),),
    ALPHA: (("alpha", "alpha", style.PURPLE, "-"),),
    GRADIENT: (("gradient_norm", "gradient norm", style.PURPLE, "-"),),
}


def _lines(axes: Axes, history: pd.DataFrame, lines: tuple[Line, ...], log: bool) -> bool:
    """Draw the columns that are there and hold numbers; False where there is none."""
    drawn = False
    for column, label, colour, dashes in lines:
        if column not in history:
            continue
        values = history[column].replace([np.inf, -np.inf], np.nan)
        values = values.where(values > 0) if log else values
        known = values.notna()
        if not known.any():
            continue
        look: Look = {"color": colour, "marker": "o" if known.sum() <= 2 else "", "markersize": 4, "linewidth": 1.7}
        axes.plot(history["epoch"][known], values[known], dashes, label=label, **look)
        drawn = True
    return drawn


def _history(run: Run) -> Inputs:
    if run.history is not None:
        yield "", (run.history, run.metrics.get("best_epoch"))


@style.figure(
    "training",
    "Validation loss that rises while training loss falls is overfitting; alpha, of runs with an adversary, is "
    "the strength of the gradient reversal.",
    inputs=_history,
)
def training_panel(history: pd.DataFrame, kept: int | None = None, note: str = "") -> Figure:
    """Loss, UAR, WA, macro F1, learning rate (log axis) and alpha, by epoch.

    Without an adversary there is no alpha, and the gradient norm is drawn in its place. Columns of ``history.csv`` that
    are missing are left out. The epoch whose network was ``kept`` is marked in every panel where it is known.
    """
    history = history.drop_duplicates("epoch", keep="last").sort_values("epoch")  # a resumed run repeats one
    drawn = style.new_figure(11, 7, "Training", note)
    panels = drawn.subplots(2, 3).ravel()
    adversary = "train/speaker_loss" in history
    chosen = [panel for panel in _PANELS.items() if panel[0] != (GRADIENT if adversary else ALPHA)]
    if not adversary:
        history = history.drop(columns="train/emotion_loss", errors="ignore")  # it is the whole loss
    for axes, (title, lines) in zip(panels, chosen, strict=True):
        log = title == "learning rate"
        if not _lines(axes, history, lines, log):
            style.empty_panel(axes, f"{title}: not recorded")
            continue
        if log:
            _log_axis(axes)
        if "%" in title:
            axes.yaxis.set_major_formatter(style.PERCENT)
        if kept is not None:
            axes.axvline(kept, color=style.GREY, linewidth=1.2, linestyle="-.", label="epoch that is kept")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid()
        if len(history) == 1:
            axes.set_xlim(history["epoch"].iloc[0] - 0.6, history["epoch"].iloc[0] + 0.6)
        if len(axes.get_lines()) > 1:  # below the axes: curves reach every corner
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, handlelength=1.4, columnspacing=0.9)
    return drawn


def _log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with labels even where the values span less than a decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1.0,) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    digits = 0 if high / low > 2 else 2  # a nearly constant rate needs more of them to tell its labels apart
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits}e}".replace("e-0", "e-")))
    axes.yaxis.set_minor_formatter(NullFormatter())


SIZES = ("train_speakers", "train_fraction")  # settings that only change how much a variant is trained on
AXES = {"speakers": "training speakers", "utterances": "training utterances"}


def curve(path: str) -> None:
    """Write ``curve.csv`` and ``curve.png`` for the runs below ``path``, and print the table.

    Raises:
        SerError: there is no run, or no variant has runs with training parts of different sizes.
    """
    table = learning_curve(find_runs(path))
    if not table["variant"].duplicated().any():
        raise SerError(
            f"{path} holds no variant with training parts of different sizes; make them with "
            "ser sweep variant=statistics_logistic train_speakers=4,8,12, for example."
        )
    write_text(Path(path) / "curve.csv", table.to_csv(index=False))
    style.save_figure(draw_curve(table), Path(path) / "curve")
    show([curve_table(table)])


def learning_curve(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per variant and size of the training part, small ones first.

    Returns:
        variant, speakers and utterances (means over runs), uar (pooled), low, high, runs, and a bool per warning.
    """
    rows = []
    for name, members in by_variant(runs).items():
        parts = [part for part in name_parts(name) if part.partition("=")[0] not in SIZES]
        sizes = [run.split["parts"]["train"] for run in members if "train" in run.split["parts"]]
        if not sizes:
            continue  # a table of another tool
        speakers = float(np.mean([len(size["speakers"]) for size in sizes]))
        utterances = float(np.mean([size["utterances"] for size in sizes]))
        rows.append([",".join(parts), speakers, utterances, *bootstrap_interval(pooled(members)), len(members)])
        rows[-1] += declared(members).values()
    columns = ["variant", *AXES, "uar", "low", "high", "runs", *WARNINGS]
    return pd.DataFrame(rows, columns=columns).sort_values(["variant", *AXES], ignore_index=True)


@style.styled
def draw_curve(table: pd.DataFrame) -> Figure:
    """UAR of each variant against training speakers and against training utterances, as ``learning_curve`` gives it."""
    names, _ = short_names(list(table["variant"]))
    labels = dict(zip(names, style.variant_labels(names.values()), strict=True))
    flagged = {text: table.loc[table[key], "variant"].unique() for key, text in WARNINGS.items()}
    note = "; ".join(
        f"{text} ({'; '.join(names[str(one)] for one in found)})" for text, found in flagged.items() if len(found)
    )
    figure = style.new_figure(9.0, 3.9, "UAR against the size of the training part", note)
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, (key, label) in zip(panels, AXES.items(), strict=True):
        for number, (name, points) in enumerate(table.groupby("variant", sort=False)):
            ordered = points.sort_values(key)
            colour, marker = style.SERIES[number % len(style.SERIES)], style.MARKERS[number % len(style.MARKERS)]
            panel.fill_between(ordered[key], ordered["low"], ordered["high"], color=colour, alpha=0.12, linewidth=0)
            if len(ordered) == 1:  # no area
                panel.vlines(ordered[key], ordered["low"], ordered["high"], color=colour, alpha=0.5)
            panel.plot(ordered[key], ordered["uar"], marker=marker, color=colour, label=labels[str(name)])
        panel.set_xlabel(label)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.yaxis.set_major_formatter(style.PERCENT)
    panels[0].set_ylabel("UAR (%) with 95% interval")
    panels[0].legend(loc="best")
    return figure
