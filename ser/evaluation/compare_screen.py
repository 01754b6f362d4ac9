"""What ``ser compare`` shows: two results with paired tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ser.console import OVERLAP, TRANSDUCTIVE
from ser.evaluation.comparison import compare
from ser.evaluation.leakage import compare_over_runs, matched
from ser.evaluation.runs import find_runs
from ser.evaluation.summary_tables import TITLES, decimal, p_text, percent
from ser.io import write_json

KEY = (
    "Percent and points, pooled over all test utterances; 95% interval of the difference over resampled speakers; p "
    "of permutation tests paired by utterance and by speaker, and of the corrected t-test over folds; d_z: effect "
    "size over folds (Cliff's delta and the sizes over speakers are in the file)."
)


def compare_and_show(a: str, b: str, allow_different_splits: bool = False, output: Path | None = None) -> None:
    """Compare two results, print the tables and write ``comparison.json`` into B, or beside it if it is a table.

    Raises:
        SerError: a result is missing or damaged, or the two were tested on different splits.
    """
    result = compare(a, b, allow_different_splits)
    before, after = matched(find_runs(a), find_runs(b))
    result["leakage"] = compare_over_runs(before, after) if before else None
    folder = Path(b) if Path(b).is_dir() else Path(b).parent
    path = output or folder / "comparison.json"
    write_json(path, result)
    console = get_console()
    for line in _heading(result):
        console.print(line, highlight=False, markup=False)
    console.print(_scores(result))
    if result["leakage"]:
        console.print(_leakage(result["leakage"]))
    console.print(str(path), highlight=False, soft_wrap=True, markup=False)


def _heading(result: Mapping[str, Any]) -> list[str]:
    """Which results, what they are labelled with, and what differs between their splits."""
    lines = []
    for name in ("a", "b"):
        side = result[name]
        labels = [OVERLAP] * side["speaker_overlap"] + [TRANSDUCTIVE] * side["transductive"]
        folds, seeds = (", ".join(map(str, side[key])) for key in ("folds", "seeds"))
        lines.append(f"{name.upper()}: {side['variant']}, fold {folds}, seed {seeds} ({side['path']})")
        lines += [f"   {label}" for label in labels]
    if result["same_split"]:
        return [*lines, "Both were tested on the same split."]
    lines += ["NOT the same split:", *(f"- {phrase}" for phrase in result["differences"])]
    paired = result["paired"]
    shared = (
        f"the tests use the {paired['utterances']} utterances that both have"
        if paired
        else "they have no utterance in common, so nothing is tested"
    )
    return [*lines, f"The scores are of different test parts; {shared}."]


def _scores(result: Mapping[str, Any]) -> Table:
    columns = ("", "A", "B", "B - A", "p utt.", "p speak.", "p folds", "d_z")
    paired = result["paired"]
    table = Table(
        *(columns if paired else columns[:3]),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=KEY if paired else "Percent, pooled over all test utterances.",
        caption_justify="left",
    )
    for index, column in enumerate(table.columns):
        column.justify, column.no_wrap = "right" if index else "left", True
    for metric, title in TITLES.items():
        scores = [percent(result[side]["pooled"][metric]) for side in ("a", "b")]
        if paired is None:
            table.add_row(title, *scores)
            continue
        found = paired["metrics"][metric]
        low, high = (percent(found[bound], signed=True) for bound in ("low", "high"))
        table.add_row(
            title,
            *scores,
            f"{percent(found['difference'], signed=True)} [{low}, {high}]",
            *(p_text(found[test]) for test in ("p_utterances", "p_speakers", "p_folds")),
            decimal(found["d_z"]),
        )
    return table


def _leakage(leakage: Mapping[str, Any]) -> Table:
    caption = (
        "Percent of held-out utterances whose training speaker the strongest probe names, over "
        f"{leakage['runs']} pairs of runs of the same fold and seed; p of a permutation test paired by speaker."
    )
    table = Table("speaker leakage", "A", "B", "B - A", "p", box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    sides = (percent(leakage[side]) for side in ("before", "after"))
    table.add_row("speaker named", *sides, percent(leakage["difference"], signed=True), p_text(leakage["p"]))
    return table
