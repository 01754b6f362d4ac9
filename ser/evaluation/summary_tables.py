"""A summary as CSV, JSON, Markdown and a table on screen."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from ser.evaluation.summary import Summary
from ser.files import atomic_path, write_json, write_text

TITLES = {"wa": "WA", "uar": "UAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
WIDE = 5  # more variants than this are rows on screen, with fewer figures each
SHORT = ("variant", "runs", "WA runs", "UAR runs", "UAR pooled", "weighted F1 runs", "labels")
KEY = ("Percent. 'runs': mean ± standard deviation over runs (folds x seeds). 'pooled': computed once over all test "
       "utterances, with a 95% bootstrap interval that resamples speakers.")
COMPARISON_KEY = ("Difference in points, pooled, with a 95% interval that resamples speakers; p of paired permutation "
                  "tests on utterances and on speakers, and of the t-test over folds corrected for overlapping "
                  "training sets; all p after Holm's correction over variants. d_z and Cliff's delta are over folds.")


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
    parts = ["# Summary", KEY, _markdown(_variant_cells(summary))]
    comparisons = _comparison_cells(summary)
    if comparisons:
        parts += [f"## Against {summary.baseline}", COMPARISON_KEY, _markdown(comparisons)]
    if summary.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in summary.notes)]
    return "\n\n".join(parts) + "\n"


def to_tables(summary: Summary) -> list[Table]:
    """The tables for the screen: the variants and, with more than one, the comparison with the baseline."""
    cells = _variant_cells(summary)
    if len(cells) > WIDE:
        tables = [_screen("Summary", KEY, [{name: row[name] for name in SHORT} for row in cells])]
    else:  # figures as rows, so that a few variants fit a terminal
        figures = list(cells[0])[1:]
        turned = [{"": name} | {row["variant"]: row[name] for row in cells} for name in figures]
        tables = [_screen("Summary", KEY, turned)]
    comparisons = _comparison_cells(summary)
    if comparisons:
        tables.append(_screen(f"Against {summary.baseline}", COMPARISON_KEY, comparisons))
    return tables


def _variant_cells(summary: Summary) -> list[dict[str, str]]:
    rows = []
    for row in summary.variants.to_dict("records"):
        cells = {"variant": str(row["variant"]), "runs": f"{row['runs']} ({row['folds']} folds x {row['seeds']} seeds)"}
        for metric, title in TITLES.items():
            cells[f"{title} runs"] = _spread(row, f"{metric}_mean_over_runs", f"{metric}_std_over_runs")
        for metric in ("wa", "uar"):
            cells[f"{TITLES[metric]} pooled"] = _bounds(row, f"{metric}_pooled")
        for emotion in summary.emotions:
            cells[f"recall {emotion} runs"] = _spread(row, f"recall_{emotion}_mean_over_runs",
                                                      f"recall_{emotion}_std_over_runs")
        cells["std over speakers (F1)"] = _percent(row["speaker_performance_std"])
        cells["epoch chosen on test would claim UAR"] = _percent(row["uar_mean_over_runs_if_epoch_were_chosen_on_test"])
        labels = {"speaker overlap": row["speaker_overlap"], "transductive": row["transductive"]}
        cells["labels"] = ", ".join(name for name, applies in labels.items() if applies) or "-"
        rows.append(cells)
    return rows


def _comparison_cells(summary: Summary) -> list[dict[str, str]]:
    rows = []
    for row in summary.comparisons.to_dict("records"):
        low, high = (_percent(row[bound], signed=True) for bound in ("low", "high"))
        rows.append({
            "variant": str(row["variant"]), "metric": TITLES[str(row["metric"])],
            "difference": f"{_percent(row['difference'], signed=True)} [{low}, {high}]",
            "p utterances": _p(row["p_utterances_holm"]), "p speakers": _p(row["p_speakers_holm"]),
            "p folds": _p(row["p_folds_holm"]), "d_z": _decimal(row["d_z"]),
            "Cliff's delta": _decimal(row["cliffs_delta"]),
        })
    return rows


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _screen(title: str, caption: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, caption=caption, caption_justify="left")
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table


def _spread(row: dict[Any, Any], mean: str, deviation: str) -> str:
    if pd.isna(row[mean]):
        return "-"
    return _percent(row[mean]) + ("" if pd.isna(row[deviation]) else f" ± {_percent(row[deviation])}")


def _bounds(row: dict[Any, Any], name: str) -> str:
    return f"{_percent(row[name])} [{_percent(row[f'{name}_low'])}, {_percent(row[f'{name}_high'])}]"


def _percent(value: Any, signed: bool = False) -> str:
    if pd.isna(value):
        return "-"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def _decimal(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:+.2f}"


def _p(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return "<.001" if value < 0.001 else f"{value:.3f}"
