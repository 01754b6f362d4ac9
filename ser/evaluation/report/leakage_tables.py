"""The tables of speaker leakage: of variants, of two results, and of each run."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ser.evaluation.leakage import COLUMNS, figures
from ser.evaluation.report.cells import UNKNOWN, Table, measured, p_text, percent, records, sentence, short_names
from ser.evaluation.runs import Run

_PROBES = {  # title of the table, and its entries of COLUMNS
    "Training speakers, held-out utterances": ("speaker", "speaker_control", "chance", "adversary"),
    "Unseen speakers": ("eer", "gender", "gender_control"),
}
_PROBE_PARTS = {"speaker": "speakers", "eer": "open_set", "gender": "gender"}  # with an interval, in leakage.json


def leakage_table(leakage: pd.DataFrame, names: Mapping[str, str], baseline: str) -> Table:
    """What can be told of the speakers from the pooled features, one row per variant."""
    cells, shown = [], {key: text for key, text in COLUMNS.items() if leakage[key].notna().any()}
    for row in records(leakage):
        figures = [measured(row[key], row.get(f"{key}_low"), row.get(f"{key}_high")) for key in shown]
        if row["faults"]:
            figures[0] += " BELOW ITS CONTROL: a fault of the instrument"
        change, p = row.get("speaker_difference"), row.get("speaker_p_holm")
        figures.append(UNKNOWN if pd.isna(p) else f"{percent(change, signed=True)} (p {p_text(p)})")
        cells.append([names[row["variant"]], *figures])
    meanings = " ".join(sentence(f"{title}: {text}") for title, text in shown.values())
    caption = (
        f"Mean over runs with 95% intervals over folds. {meanings} Change: of the speakers named, from "
        f"{names[baseline]}, with a permutation test paired by speaker, after Holm's correction."
    )
    columns = ["variant", *(f"{title} (%)" for title, _ in shown.values()), "change (points)"]
    return Table("Speaker leakage", columns, cells, caption)


def leakage_comparison_table(leakage: Mapping[str, Any]) -> Table:
    """How often the strongest probe names the training speaker in A and in B, from ``compare_over_runs``."""
    cells = ["speaker named", percent(leakage["before"]), percent(leakage["after"])]
    cells += [percent(leakage["difference"], signed=True), p_text(leakage["p"])]
    caption = (
        "Percent of held-out utterances whose training speaker the strongest probe names, over "
        f"{leakage['runs']} pair{'s' * (leakage['runs'] != 1)} of runs of the same fold and, where it matters, "
        "seed; p of a permutation test paired by speaker, uncorrected."
    )
    return Table("Speaker leakage", ["figure", "A (%)", "B (%)", "difference (points)", "p"], [cells], caption)


def probe_tables(variants: Mapping[str, Sequence[tuple[Run, Mapping[str, Any]]]]) -> list[Table]:
    """Leakage of each run, and its mean per variant: of training speakers, then of unseen ones."""
    tables, (names, _) = [], short_names(list(variants))
    found = [figures(leakage) for runs in variants.values() for _, leakage in runs]
    for title, listed in _PROBES.items():
        keys = [key for key in listed if any(one[key] is not None for one in found)]
        if not keys:
            continue
        closed = "speaker" in keys
        rows = []
        for variant, runs in variants.items():
            for run, leakage in runs:
                cells = [_probe_cell(key, leakage) for key in keys] + [leakage["speakers"]["probe"]] * closed
                rows.append([f"{names[variant]}, fold {run.fold}, seed {run.seed}", *cells])
            if len(runs) > 1:
                means = pd.DataFrame([figures(leakage) for _, leakage in runs], dtype=float).mean()
                cells = [percent(means[key]) for key in keys] + [""] * closed
                rows.append([f"{names[variant]}, mean of {len(runs)} runs", *cells])
        meanings = " ".join(sentence(": ".join(COLUMNS[key])) for key in keys)
        caption = f"95% intervals resample speakers. {meanings}"
        if any("BELOW" in cell for row in rows for cell in row):
            caption += (
                " A figure BELOW its control is a fault of the instrument (too few utterances, say), not a sign that "
                "the speaker is hidden: do not quote it."
            )
        columns = ["run", *(f"{COLUMNS[key][0]} (%)" for key in keys), *["best probe"] * closed]
        tables.append(Table(title, columns, rows, caption))
    return tables


def _probe_cell(key: str, leakage: Mapping[str, Any]) -> str:
    """The figure, its interval where it has one, and a mark where it is below its control."""
    value, part = figures(leakage)[key], leakage[_PROBE_PARTS[key]] if key in _PROBE_PARTS else None
    if not part:
        return percent(value)
    return measured(value, part["low"], part["high"]) + " BELOW" * (part.get("verdict") == "below")
