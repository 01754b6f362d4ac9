"""Finished runs on disk: the tables and the split of each, loaded when asked for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from ser.errors import SerError
from ser.evaluation.predictions import emotions_of, read_history, read_predictions
from ser.evaluation.scores import scores

NEEDED = ("variant", "fold", "seed")


@dataclass(frozen=True)
class Run:
    """One finished run: a network trained on one fold with one seed.

    Attributes:
        folder: where its files lie.
        variant: what was compared in the sweep, for example ``enhanced_gru``.
        fold: the held-out part, from 1.
        seed: of the training.
        metrics: ``metrics.json``; empty for a table made by another tool.
        split: ``split.json``; only the test part is known for a table made by another tool.
        table_path: its prediction table.
    """

    folder: Path
    variant: str
    fold: int
    seed: int
    metrics: dict[str, Any] = field(repr=False)
    split: dict[str, Any] = field(repr=False)
    table_path: Path = field(repr=False)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The test part's prediction table, read on first use."""
        return read_predictions(self.table_path)

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """The training history, None where the run kept none."""
        path = self.folder / "history.csv"
        return read_history(path) if path.is_file() else None

    @cached_property
    def test(self) -> dict[str, Any]:
        """Scores of the test part, computed from the table rather than believed."""
        return scores(self.predictions)

    @cached_property
    def leakage(self) -> dict[str, Any] | None:
        """The result of the speaker probe, None where it was not run."""
        path = self.folder / "leakage.json"
        return _read_json(path) if path.is_file() else None

    @property
    def emotions(self) -> list[str]:
        """Class order."""
        return list(self.split.get("emotions") or emotions_of(self.predictions))

    @property
    def hash(self) -> str:
        """Identity of corpus, labels and parts."""
        return str(self.split["hash"])

    @property
    def speaker_overlap(self) -> bool:
        """Whether test speakers occur in training: as declared, or as the split itself shows."""
        parts = self.split["parts"]
        shared = set(parts.get("train", {}).get("speakers", ())) & set(parts["test"].get("speakers", ()))
        return bool(shared or self.split.get("speaker_overlap") or self.metrics.get("speaker_overlap"))

    @property
    def transductive(self) -> bool:
        """Whether the test speakers' unlabelled audio was used, as per-speaker normalisation does."""
        return bool(self.split.get("transductive") or self.metrics.get("transductive"))


def load_run(folder: str | Path) -> Run:
    """Load a finished run folder, or a prediction table (``.csv``) made by another tool as a run of its own.

    Raises:
        SerError: there is nothing there, the run is not finished, or its files are damaged.
    """
    folder = Path(folder)
    if folder.suffix.lower() == ".csv":
        return _table_as_run(folder)
    if not (folder / "metrics.json").is_file():
        raise SerError(
            f"{folder} is not a finished run: it has no metrics.json; give the folder of a run that ended, "
            "or start the run again to finish it."
        )
    metrics, split = _read_json(folder / "metrics.json"), _read_json(folder / "split.json")
    if "test" not in metrics:
        raise SerError(
            f"the run {folder} was never tested (it belongs to a search, or had test=false); run it again "
            "with test=true resume=true to test it."
        )
    missing = [f"metrics.json: {key}" for key in NEEDED if key not in metrics]
    missing += [f"split.json: {key}" for key in ("hash", "parts") if key not in split]
    if missing or "test" not in split["parts"]:
        raise SerError(
            f"the run {folder} lacks {', '.join(missing) or 'split.json: parts.test'}; its files are from "
            "another program or damaged, so run it again."
        )
    return Run(
        folder,
        str(metrics["variant"]),
        int(metrics["fold"]),
        int(metrics["seed"]),
        metrics,
        split,
        folder / "predictions.csv",
    )


def find_runs(folder: str | Path) -> list[Run]:
    """Every finished and tested run in ``folder`` and below, by variant, fold and seed; others are passed over.

    Raises:
        SerError: the folder is absent or holds no finished run, or holds the same variant, fold and seed twice.
    """
    folder = Path(folder)
    if folder.suffix.lower() == ".csv":
        return [load_run(folder)]
    if not folder.is_dir():
        raise SerError(f"there is no folder {folder}; give a run folder or the folder of a sweep.")
    # previous/ holds the results of an earlier run while a new one is under way.
    folders = [path.parent for path in folder.rglob("metrics.json") if path.parent.name != "previous"]
    if not folders:
        raise SerError(
            f"{folder} holds no finished run (no metrics.json in it or below); train first, or give the "
            "folder that holds the runs."
        )
    tested = [path for path in folders if "test" in _read_json(path / "metrics.json")]
    runs = [load_run(path) for path in tested or folders]
    runs.sort(key=lambda run: (run.variant, run.fold, run.seed, str(run.folder)))
    for one, other in pairwise(runs):
        if (one.variant, one.fold, one.seed) == (other.variant, other.fold, other.seed):
            raise SerError(
                f"{one.folder} and {other.folder} are both {one.variant}, fold {one.fold}, seed {one.seed}; "
                "give a folder that holds one sweep, or move one of them away."
            )
    return runs


def pooled(runs: Sequence[Run]) -> pd.DataFrame:
    """The test tables of several runs under one another; an utterance occurs once a seed."""
    return pd.concat([run.predictions for run in runs], ignore_index=True)


def by_fold(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """The runs of each fold, folds ascending."""
    return {fold: [run for run in runs if run.fold == fold] for fold in sorted({run.fold for run in runs})}


def _table_as_run(path: Path) -> Run:
    table = read_predictions(path)
    labels = sorted(zip(table["id"], table["emotion"], strict=True))
    digest = hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]
    part = {"ids": sorted(table["id"]), "speakers": sorted(table["speaker"].unique()), "utterances": len(table)}
    split = {"emotions": emotions_of(table), "hash": f"table {digest}", "parts": {"test": part}}
    return Run(path.parent, path.stem, 1, 0, {}, split, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SerError(f"{path} is missing; a finished run has it, so run it again.") from error
    except (ValueError, OSError) as error:
        raise SerError(f"{path} is not readable JSON; the file is damaged, so run it again.") from error
    if not isinstance(content, dict):
        raise SerError(f"{path} does not hold a JSON object; the file is from another program, so run it again.")
    return content
