"""Prediction tables of other tools: where they are, and the folds and seeds in one."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from ser.errors import SerError
from ser.evaluation.predictions import check_predictions, emotions_of, read_table

_NOT_RESULTS = {"summary.csv", "summary_comparisons.csv", "history.csv", "train_predictions.csv"}
_RUN_FILES = ("metrics.json", "split.json", "run.json")  # a folder with one of these is a run's own
_NUMBER_IN_NAME = {key: re.compile(rf"(?:^|[^a-z]){key}[-_=]?(\d+)", re.IGNORECASE) for key in ("fold", "seed")}


def variant_of(path: Path) -> str:
    """The variant of a table in a folder of tables: the folder of ``seed3_fold2.csv``, else the file's name."""
    numbered = any(pattern.search(path.stem) for pattern in _NUMBER_IN_NAME.values())
    return path.parent.resolve().name if numbered else path.stem


def read_parts(path: Path) -> list[tuple[int, int, dict[str, Any], pd.DataFrame]]:
    """Fold, seed, split and predictions of each part of a table.

    Fold and seed come from columns of these names, else from the file's name, else they are 1 and 0.

    Raises:
        SerError: the table has no rows, impossible folds or seeds, or breaks a rule of ``check_predictions``.
    """
    content = read_table(path)
    numbers = pd.DataFrame(index=content.index)
    for key, default in (("fold", 1), ("seed", 0)):
        found = _NUMBER_IN_NAME[key].search(path.stem)
        column = content[key] if key in content else pd.Series(int(found[1]) if found else default, content.index)
        numbers[key] = pd.to_numeric(column, errors="coerce")
    if numbers.isna().any(axis=None):
        raise SerError(f"{path} has folds or seeds that are not whole numbers; write numbers into these columns.")
    if content.empty:
        raise SerError(f"{path} has no rows, expected one per utterance; write the table again.")
    places = [(int(fold), int(seed)) for fold, seed in numbers.to_numpy()]
    parts = []
    for fold, seed in sorted(set(places)):
        table = check_predictions(content[[place == (fold, seed) for place in places]], str(path))
        labels = sorted(zip(table["id"], table["emotion"], strict=True))
        digest = hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]
        part = {"ids": sorted(table["id"]), "speakers": sorted(table["speaker"].unique()), "utterances": len(table)}
        split = {"emotions": emotions_of(table), "hash": f"table {digest}", "parts": {"test": part}}
        parts.append((fold, seed, split, table))
    return parts


def is_foreign_table(path: Path, root: Path) -> bool:
    """Whether a CSV file is a prediction table that no run folder between it and ``root`` owns."""
    if path.name in _NOT_RESULTS:
        return False
    folders = [folder for folder in path.parents if folder == root or folder.is_relative_to(root)]
    if any((folder / name).is_file() for folder in folders for name in _RUN_FILES):
        return False
    try:
        with path.open(encoding="utf-8-sig") as file:
            return {"id", "speaker", "emotion", "predicted"} <= set(file.readline().strip().split(","))
    except (OSError, UnicodeDecodeError):
        return False
