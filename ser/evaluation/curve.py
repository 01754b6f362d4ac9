"""Learning curves: UAR against the training speakers and utterances of finished runs.

Runs with ``train_speakers=`` and ``train_fraction=`` are the points of one curve per variant, beside the run with all.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ser.config import name_parts
from ser.errors import SerError
from ser.evaluation.figures import style
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import curve_table
from ser.evaluation.runs import WARNINGS, Run, by_variant, declared, find_runs, pooled
from ser.evaluation.significance import bootstrap_interval
from ser.io import write_text

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
    flagged = {text: table.loc[table[key], "variant"].unique() for key, text in WARNINGS.items()}
    note = "; ".join(f"{text} ({', '.join(names)})" for text, names in flagged.items() if len(names))
    figure = style.new_figure(9.0, 3.9, "UAR against the size of the training part", note)
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, (key, label) in zip(panels, AXES.items(), strict=True):
        for number, (name, points) in enumerate(table.groupby("variant", sort=False)):
            ordered = points.sort_values(key)
            colour, marker = style.SERIES[number % len(style.SERIES)], style.MARKERS[number % len(style.MARKERS)]
            panel.fill_between(ordered[key], ordered["low"], ordered["high"], color=colour, alpha=0.12, linewidth=0)
            if len(ordered) == 1:  # no area
                panel.vlines(ordered[key], ordered["low"], ordered["high"], color=colour, alpha=0.5)
            panel.plot(ordered[key], ordered["uar"], marker=marker, color=colour, label=style.drawable(name, 34))
        panel.set_xlabel(label)
        panel.yaxis.set_major_formatter(style.PERCENT)
    panels[0].set_ylabel("UAR (%)")
    panels[0].legend(loc="best")
    return figure
