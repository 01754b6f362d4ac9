"""All the figures of a run folder, or of a folder of runs."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ser.evaluation.figures.calibration import confidence, duration, reliability
from ser.evaluation.figures.run import classes, confusion, groups, speakers
from ser.evaluation.figures.space import feature_map
from ser.evaluation.figures.training import training_panel
from ser.evaluation.figures.variants import confusions, folds, ladder, radar, speaker_matrix
from ser.evaluation.predictions import read_embeddings
from ser.evaluation.runs import Run, find_runs, load_run, pooled
from ser.evaluation.summary import Summary, summarize

_MOST_MAPS = 6


def note_of(runs: Sequence[Run]) -> str:
    """The warning that figures of these runs carry; names the variants where it holds for some of them only."""
    names = {entry.variant for entry in runs}
    phrases = []
    for flag, words in (
        ("speaker_overlap", "speaker overlap: test speakers occur in training"),
        ("transductive", "transductive: uses unlabelled audio of the test speakers"),
    ):
        flagged = sorted({entry.variant for entry in runs if getattr(entry, flag)})
        if flagged:
            phrases.append(words if set(flagged) == names else f"{words} ({', '.join(flagged)})")
    return "; ".join(phrases)


def by_variant(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each variant, in their order."""
    grouped: dict[str, list[Run]] = {}
    for entry in runs:
        grouped.setdefault(entry.variant, []).append(entry)
    return grouped


def run_figures(folder: str | Path) -> dict[str, Figure]:
    """Every figure that the files of one run allow, by name.

    Args:
        folder: a finished run, or a prediction table made by another tool.

    Raises:
        SerError: there is no finished run, or a file of it is damaged.
    """
    return figures_of_run(load_run(folder))


def figures_of_run(entry: Run) -> dict[str, Figure]:
    """Every figure that the files of a loaded run allow, by name."""
    table, note = entry.predictions, note_of([entry])
    figures = {
        "confusion": confusion(table, note),
        "classes": classes(table, note),
        "radar": radar(_class_scores(entry), "Emotions", note),
        "speakers": speakers(table, note),
        "groups": groups(table, note),
    }
    features = _feature_map(entry, note)
    if features is not None:
        figures["features"] = features
    figures["reliability"] = reliability(table, note)
    figures["confidence"] = confidence(table, note)
    figures["duration"] = duration(table, note)
    if entry.history is not None:
        figures["training"] = training_panel(entry.history, note)
    return figures


def sweep_figures(folder: str | Path) -> dict[str, Figure]:
    """Every figure that compares the variants in a folder of runs, by name.

    Raises:
        SerError: the folder holds no finished run, a file is damaged, or the runs have different classes.
    """
    runs = find_runs(folder)
    return figures_of_sweep(runs, summarize(runs))


def figures_of_sweep(runs: Sequence[Run], summary: Summary) -> dict[str, Figure]:
    """Every figure that compares the variants of loaded runs with their summary, by name."""
    found, note = by_variant(runs), note_of(runs)
    members = {name: found[name] for name in summary.variants["variant"]}
    tables = {name: pooled(entries) for name, entries in members.items()}
    rungs = summary.variants.set_index("variant")[["uar_pooled", "uar_pooled_low", "uar_pooled_high"]]
    rungs.columns = pd.Index(["value", "low", "high"])
    rungs["baseline"] = rungs.index == summary.baseline
    results = pd.DataFrame(
        [
            {"variant": name, "uar": entry.test["uar"], "wa": entry.test["wa"]}
            for name, entries in members.items()
            for entry in entries
        ]
    )
    recalls = pd.DataFrame({name: _mean_recalls(entries) for name, entries in members.items()}).T
    figures = {
        "ladder": ladder(rungs, "UAR (pooled) with 95% interval over speakers", note),
        "folds": folds(results, note),
        "radar": radar(recalls, "Recall by emotion, mean over runs", note),
        "speaker_matrix": speaker_matrix(tables, note),
        "confusions": confusions(tables, note),
    }
    for name, entries in list(members.items())[:_MOST_MAPS]:
        # Pooled features of two trainings have unrelated axes, so a map shows one run of the variant.
        features = _feature_map(entries[0], note_of(entries), f"{name}, fold {entries[0].fold}, seed {entries[0].seed}")
        if features is not None:
            figures[f"features-{_slug(name)}"] = features
    return figures


def _feature_map(entry: Run, note: str, title: str = "") -> Figure | None:
    path = entry.folder / "embeddings.npy"
    if not entry.metrics or not path.is_file():
        return None
    return feature_map(entry.predictions, read_embeddings(path, len(entry.predictions)), note, title=title)


def _class_scores(entry: Run) -> pd.DataFrame:
    return (
        pd.DataFrame(
            {name: entry.test[key] for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))}
        )
        .astype(float)
        .T
    )


def _mean_recalls(entries: Sequence[Run]) -> pd.Series:
    return pd.DataFrame([entry.test["recall"] for entry in entries]).astype(float).mean()


def _slug(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", name)
