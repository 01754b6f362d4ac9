"""A summary as tables for a screen of 80 columns."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ser.evaluation.summary import Summary
from ser.evaluation.summary_tables import (
    COMPARISON_KEY,
    LEAKAGE_KEY,
    TITLES,
    bounds,
    decimal,
    leakage_cells,
    p_text,
    percent,
    spread,
)

MANY_EMOTIONS = 4  # more than this leave no room for deviations
RUNS_KEY = "Percent, mean ± standard deviation over runs (folds x seeds)."
TEST_CHOICE_KEY = "* What choosing the epoch on the test part would have claimed."
POOLED_KEY = "Percent, computed once over all test utterances, with a 95% bootstrap interval that resamples speakers."


def to_tables(summary: Summary) -> list[Table]:
    """Scores, recall, leakage where it was probed, and a comparison with the baseline for every other variant."""
    names, shared = short_names([str(name) for name in summary.variants["variant"]])
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in summary.variants.to_dict("records")
    ]
    tables = [_runs(rows, names, shared), _pooled(rows, names), _recall(rows, names, summary.emotions)]
    if len(summary.leakage):
        tables += _leakage(summary, names)
    return tables + _comparisons(summary, names)


def short_names(variants: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What tells variants apart: their names without the settings that all of them share, and those settings."""
    parts = {name: re.split(r",(?=[\w.+~/@-]+=)", name) for name in variants}  # a comma inside a value stays
    settings = [found[1:] for found in parts.values()]
    shared = [setting for setting in settings[0] if all(setting in found for found in settings)] if settings else []
    return {
        name: ",\n".join([found[0], *(one for one in found[1:] if one not in shared)]) for name, found in parts.items()
    }, shared


def _runs(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], shared: Sequence[str]) -> Table:
    counts = {f"{row['runs']} runs each ({row['folds']} folds x {row['seeds']} seeds)" for row in rows}
    heading = [counts.pop() if len(counts) == 1 else "", f"all with {', '.join(shared)}" if shared else ""]
    title = "\n".join(filter(None, ["Mean over runs", *heading]))
    cells = []
    for row in rows:
        labels = {"speaker overlap": row["speaker_overlap"], "transductive": row["transductive"]}
        marks = [label for label, applies in labels.items() if applies]
        marks += [f"{row['runs']} runs"] if not heading[0] else []
        cells.append(
            {
                "": "\n".join([names[row["variant"]], *(f"({mark})" for mark in marks)]),
                **{
                    TITLES[metric]: spread(dict(row), f"{metric}_mean_over_runs", f"{metric}_std_over_runs")
                    for metric in ("uar", "wa", "macro_f1", "weighted_f1")
                },
                "UAR*": percent(row["uar_mean_over_runs_if_epoch_were_chosen_on_test"]),
            }
        )
    return _screen(title, f"{RUNS_KEY} {TEST_CHOICE_KEY}", cells)


def _pooled(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    return _screen(
        "Pooled",
        POOLED_KEY,
        [
            {
                "": names[row["variant"]],
                "UAR": bounds(dict(row), "uar_pooled"),
                "WA": bounds(dict(row), "wa_pooled"),
                "std over speakers": percent(row["speaker_performance_std"]),
            }
            for row in rows
        ],
    )


def _recall(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], emotions: Sequence[str]) -> Table:
    def cell(row: Mapping[str, Any], emotion: str) -> str:
        mean = f"recall_{emotion}_mean_over_runs"
        if len(emotions) > MANY_EMOTIONS:
            return percent(row[mean])
        return spread(dict(row), mean, f"recall_{emotion}_std_over_runs")

    return _screen(
        "Recall",
        RUNS_KEY,
        [{"": names[row["variant"]], **{emotion: cell(row, emotion) for emotion in emotions}} for row in rows],
    )


def _leakage(summary: Summary, names: Mapping[str, str]) -> list[Table]:
    rows = [{"": names[row.pop("variant")], **row} for row in leakage_cells(summary)]
    first = ("", "speaker named", "control", "chance", "change")
    closed = [{title: row[title] for title in first} for row in rows]
    others = [{title: cell for title, cell in row.items() if title == "" or title not in first} for row in rows]
    return [_screen("Speaker leakage", "", closed), _screen("", LEAKAGE_KEY, others)]


def _comparisons(summary: Summary, names: Mapping[str, str]) -> list[Table]:
    """A table a variant, so that its name is said once."""
    tables = []
    for variant, rows in summary.comparisons.groupby("variant", sort=False):
        cells = [
            {
                "": TITLES[str(row["metric"])],
                "difference": " ".join(
                    [
                        percent(row["difference"], signed=True),
                        f"[{percent(row['low'], signed=True)}, {percent(row['high'], signed=True)}]",
                    ]
                ),
                "p utt.": p_text(row["p_utterances_holm"]),
                "p speak.": p_text(row["p_speakers_holm"]),
                "p folds": p_text(row["p_folds_holm"]),
                "d_z": decimal(row["d_z"]),
                "Cliff": decimal(row["cliffs_delta"]),
            }
            for row in rows.to_dict("records")
        ]
        title = " ".join([names[str(variant)], "against", names[summary.baseline]]).replace("\n", "")
        tables.append(_screen(title, "", cells))
    if tables:
        tables[-1].caption = COMPARISON_KEY
    return tables


def _screen(title: str, caption: str, rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(
        title=title or None,
        caption=caption or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_style="bold",
    )
    for index, name in enumerate(rows[0]):
        # Only the first column may wrap: figures broken over lines cannot be read.
        table.add_column(name, justify="right" if index else "left", overflow="fold", no_wrap=index > 0)
    for row in rows:
        table.add_row(*row.values())
    return table
