"""What ``ser probe`` shows: the speaker leakage of finished runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ser.errors import SerError
from ser.evaluation.runs import Run, find_runs
from ser.evaluation.speaker_probe import write_leakage
from ser.evaluation.summary_tables import percent

KEY = (
    "Percent of held-out utterances whose (training) speaker the probe names, beside chance and beside what the "
    "adversary reached in training; gender: balanced accuracy on test speakers, chance 50."
)
COLUMNS = ("chance", "linear", "MLP", "adversary", "gender, linear", "gender, MLP")


def probe_and_show(path: str) -> None:
    """Probe each run at or below ``path``, write its ``leakage.json``, and print all of them.

    Raises:
        SerError: there is no run.
    """
    if Path(path).suffix.lower() == ".csv":
        raise SerError(
            f"{path} is a table, but the probe needs a run folder with train_predictions.csv, "
            "train_embeddings.npy, predictions.csv and embeddings.npy; give such a folder."
        )
    variants: dict[str, list[Run]] = {}
    for entry in find_runs(path):
        variants.setdefault(entry.variant, []).append(entry)
    table = Table(
        "run",
        *COLUMNS,
        title="Speaker leakage",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=KEY,
        caption_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for variant, runs in variants.items():
        table.add_section()
        table.add_row(Text(variant))
        figures = [_figures(entry) for entry in runs]
        for entry, values in zip(runs, figures, strict=True):
            table.add_row(f"fold {entry.fold}, seed {entry.seed}", *map(percent, values))
        if len(runs) > 1:
            means = map(_mean, zip(*figures, strict=True))
            table.add_row(f"mean of {len(runs)} runs", *map(percent, means), style="bold")
    get_console().print(table)


def _figures(entry: Run) -> list[float | None]:
    leakage = write_leakage(entry.folder, entry.metrics.get("best_epoch"))
    speakers, gender = leakage["speakers"], leakage["gender"]
    told = [gender[probe]["balanced_accuracy"] if gender else None for probe in ("linear", "mlp")]
    return [
        speakers["chance"],
        speakers["linear"]["accuracy"],
        speakers["mlp"]["accuracy"],
        leakage["adversary_accuracy"],
        *told,
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
