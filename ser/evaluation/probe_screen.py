"""What ``ser probe`` shows: the speaker leakage of finished runs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ser.errors import SerError
from ser.evaluation.leakage import COLUMNS, figures, write_leakage
from ser.evaluation.report.tables import percent
from ser.evaluation.runs import Run, find_runs

log = logging.getLogger(__name__)
CLOSED, UNSEEN = ("speaker", "speaker_control", "chance", "adversary"), ("eer", "gender", "gender_control")
PARTS = {"speaker": "speakers", "eer": "open_set", "gender": "gender"}  # figures with an interval, in leakage.json
BELOW = (
    "A figure BELOW its control is a fault of the instrument (too few utterances, say), not a sign that the speaker is "
    "hidden: do not quote it."
)


def probe_and_show(path: str) -> None:
    """Measure each run at or below ``path``, write its ``leakage.json``, and print all of them.

    Raises:
        SerError: there is no run, or none of them can be measured.
    """
    if Path(path).suffix.lower() == ".csv":
        raise SerError(
            f"{path} is a table, but the probe needs a run folder with train_predictions.csv, "
            "train_embeddings.npy, predictions.csv and embeddings.npy; give such a folder."
        )
    variants: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    left_out = []
    for entry in find_runs(path):
        try:
            leakage = write_leakage(entry.folder, entry.metrics.get("best_epoch"))
        except SerError as error:
            left_out.append(str(error))
            log.warning("left out: %s", error)
            continue
        variants.setdefault(entry.variant, []).append((entry, leakage))
    if not variants:
        raise SerError(left_out[0])
    console = get_console()
    console.print(_table("Training speakers, held-out utterances", CLOSED, "best probe", variants))
    console.print(_table("Unseen speakers", UNSEEN, "", variants))
    console.print("Percent, with 95% intervals that resample speakers.", highlight=False)
    for title, explanation in COLUMNS.values():
        console.print(Text.assemble("  ", (title, "bold"), f": {explanation}"))
    if any(leakage["speakers"]["verdict"] == "below" for runs in variants.values() for _, leakage in runs):
        console.print(Text(BELOW, "bold"))


def _table(title: str, keys: Sequence[str], extra: str, variants: Mapping[str, Any]) -> Table:
    columns = [COLUMNS[key][0] for key in keys] + [extra] * bool(extra)
    table = Table("run", *columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for variant, runs in variants.items():
        table.add_section()
        table.add_row(Text(variant))
        for entry, leakage in runs:
            cells = [_cell(key, leakage) for key in keys] + [leakage["speakers"]["probe"]] * bool(extra)
            table.add_row(f"fold {entry.fold}, seed {entry.seed}", *cells)
        if len(runs) > 1:
            means = pd.DataFrame([figures(leakage) for _, leakage in runs], dtype=float).mean()
            table.add_row(f"mean of {len(runs)} runs", *(percent(means[key]) for key in keys), style="bold")
    return table


def _cell(key: str, leakage: Mapping[str, Any]) -> str:
    """The figure, its interval where it has one, and a mark where it is below its control."""
    value = percent(figures(leakage)[key])
    part = leakage[PARTS[key]] if key in PARTS else None
    if part and part["low"] is not None:
        value += f" [{percent(part['low'])}, {percent(part['high'])}]"
    return value + (" BELOW" if part and part.get("verdict") == "below" else "")
