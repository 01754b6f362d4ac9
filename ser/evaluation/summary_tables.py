"""A summary as CSV, JSON and Markdown."""

from pathlib import Path
from typing import Any

import pandas as pd

from ser.evaluation.leakage import COLUMNS
from ser.evaluation.summary import Summary
from ser.io import atomic_path, write_json, write_text

TITLES = {"wa": "WA", "uar": "UAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
KEY = (
    "Percent. 'runs': mean ± standard deviation over runs (folds x seeds). 'pooled': computed once over all test "
    "utterances, with a 95% bootstrap interval that resamples speakers."
)
COMPARISON_KEY = (
    "Difference in points, pooled, with a 95% interval that resamples speakers; p of paired permutation "
    "tests on utterances and on speakers, and of the t-test over folds corrected for overlapping "
    "training sets; all p after Holm's correction over variants. d_z and Cliff's delta are over folds."
)
LEAKAGE_KEY = (
    "Percent, mean over runs. "
    + " ".join(f"{title}: {text}." for title, text in COLUMNS.values())
    + " Intervals: over runs (folds x seeds). Change of the speakers named from the baseline in points, p of a "
    "permutation test paired by speaker, after Holm's correction."
)


def write_summary(summary: Summary, folder: str | Path) -> list[Path]:
    """Write ``summary.csv``, ``summary_comparisons.csv``, ``summary.json`` and ``summary.md`` into ``folder``.

    Raises:
        SerError: a file cannot be written; each is whole or as it was before.
    """
    folder = Path(folder)
    paths = [folder / name for name in ("summary.csv", "summary_comparisons.csv", "summary.json", "summary.md")]
    to_csv(summary.variants, paths[0])
    to_csv(summary.comparisons, paths[1])
    to_json(summary, paths[2])
    write_text(paths[3], to_markdown(summary))
    return paths


def to_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write one of the summary's tables with every column and digit."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8")


def to_json(summary: Summary, path: str | Path) -> None:
    """Write the whole summary, the cross-speaker figures included."""
    write_json(path, summary.to_dict())


def to_markdown(summary: Summary) -> str:
    """The tables that a README or an issue shows, with what has to be known to read them."""
    parts = ["# Summary", KEY, _markdown(variant_cells(summary))]
    comparisons = comparison_cells(summary)
    if comparisons:
        parts += [f"## Against {summary.baseline}", COMPARISON_KEY, _markdown(comparisons)]
    if len(summary.leakage):
        parts += ["## Speaker leakage", LEAKAGE_KEY, _markdown(leakage_cells(summary))]
    if summary.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in summary.notes)]
    return "\n\n".join(parts) + "\n"


def variant_cells(summary: Summary) -> list[dict[str, str]]:
    """A row a variant, figures in percent."""
    rows = []
    for row in summary.variants.to_dict("records"):
        cells = {"variant": str(row["variant"]), "runs": f"{row['runs']} ({row['folds']} folds x {row['seeds']} seeds)"}
        for metric, title in TITLES.items():
            cells[f"{title} runs"] = spread(row, f"{metric}_mean_over_runs", f"{metric}_std_over_runs")
        for metric in ("wa", "uar"):
            cells[f"{TITLES[metric]} pooled"] = bounds(row, f"{metric}_pooled")
        for emotion in summary.emotions:
            cells[f"recall {emotion} runs"] = spread(
                row, f"recall_{emotion}_mean_over_runs", f"recall_{emotion}_std_over_runs"
            )
        cells["std over speakers (F1)"] = percent(row["speaker_performance_std"])
        cells["epoch chosen on test would claim UAR"] = percent(row["uar_mean_over_runs_if_epoch_were_chosen_on_test"])
        labels = {"speaker overlap": row["speaker_overlap"], "transductive": row["transductive"]}
        cells["labels"] = ", ".join(name for name, applies in labels.items() if applies) or "-"
        rows.append(cells)
    return rows


def comparison_cells(summary: Summary) -> list[dict[str, str]]:
    """A row a variant and metric, differences in points."""
    rows = []
    for row in summary.comparisons.to_dict("records"):
        low, high = (percent(row[bound], signed=True) for bound in ("low", "high"))
        rows.append(
            {
                "variant": str(row["variant"]),
                "metric": TITLES[str(row["metric"])],
                "difference": f"{percent(row['difference'], signed=True)} [{low}, {high}]",
                "p utterances": p_text(row["p_utterances_holm"]),
                "p speakers": p_text(row["p_speakers_holm"]),
                "p folds": p_text(row["p_folds_holm"]),
                "d_z": decimal(row["d_z"]),
                "Cliff's delta": decimal(row["cliffs_delta"]),
            }
        )
    return rows


def leakage_cells(summary: Summary) -> list[dict[str, str]]:
    """One row per variant whose leakage was measured."""
    rows = []
    for row in summary.leakage.to_dict("records"):
        cells = {"variant": str(row["variant"])}
        for key, (title, _) in COLUMNS.items():
            interval = pd.notna(row.get(f"{key}_low"))
            cells[title] = bounds(row, key) if interval else percent(row[key])
        if row["faults"]:
            cells["speaker named"] += " BELOW ITS CONTROL: a fault of the instrument"
        changed = pd.notna(row.get("speaker_p_holm"))
        change = (
            f"{percent(row['speaker_difference'], signed=True)} (p {p_text(row['speaker_p_holm'])})" if changed else "-"
        )
        rows.append(cells | {"change": change})
    return rows


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def spread(row: dict[Any, Any], mean: str, deviation: str) -> str:
    """``83.7 ± 2.1``, without the deviation where there is none."""
    if pd.isna(row[mean]):
        return "-"
    return percent(row[mean]) + ("" if pd.isna(row[deviation]) else f" ± {percent(row[deviation])}")


def bounds(row: dict[Any, Any], name: str) -> str:
    """``83.7 [79.9, 86.8]``."""
    return f"{percent(row[name])} [{percent(row[f'{name}_low'])}, {percent(row[f'{name}_high'])}]"


def percent(value: Any, signed: bool = False) -> str:
    """``83.7`` or ``+2.1``; a dash for what is unknown."""
    if pd.isna(value):
        return "-"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def decimal(value: Any) -> str:
    """``+0.25``; a dash for what is unknown."""
    return "-" if pd.isna(value) else f"{value:+.2f}"


def p_text(value: Any) -> str:
    """``0.031`` or ``<.001``; a dash for what is unknown."""
    if pd.isna(value):
        return "-"
    return "<.001" if value < 0.001 else f"{value:.3f}"
