"""Prediction tables of other tools: which files they are, and which variant, fold and seed each one holds."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ser.errors import SerError
from ser.evaluation.predictions import COLUMNS, PREFIX, TEXTS, check_predictions, emotions_of, read_csv

_NOT_RESULTS = {"summary.csv", "summary_comparisons.csv", "history.csv", "train_predictions.csv"}
_RUN_FILES = ("metrics.json", "split.json", "run.json")  # a folder with one of these is a run's own
_NUMBER = {key: re.compile(rf"(?<![a-z]){key}[-_= ]?(\d+)", re.IGNORECASE) for key in ("fold", "seed")}
_KIND_OF_FILE = re.compile(r"(test|posteriors?|pred(ict(ion)?)?s?|prob(abilitie)?s?|results?|scores?)?", re.IGNORECASE)
_SEPARATORS = " _-.,="
# Columns and the other names that tools have for them, in lower case.
_OTHER_NAMES = {
    "id": ("utterance", "utterance_id", "utt", "utt_id", "file", "filename", "file_name", "path", "key"),
    "speaker": ("spk", "speaker_id", "spk_id", "spkr"),
    "emotion": ("y_true", "true", "true_label", "truth", "target", "gold", "reference", "label"),
    "predicted": ("prediction", "pred", "y_pred", "predicted_label", "pred_label", "predicted_emotion", "hypothesis"),
}
_OTHER_PREFIXES = ("prob_", "probability_", "posterior_")


class Place(NamedTuple):
    """What the names of a table's file and folders say of it."""

    variant: str
    fold: int
    seed: int


class Part(NamedTuple):
    """One fold and seed of a table: its content, and a split of which only the test part is known."""

    fold: int
    seed: int
    split: dict[str, Any]
    predictions: pd.DataFrame


def place_of(path: Path, root: Path) -> Place:
    """Variant, fold and seed of a table in a folder ``root`` or below, by names such as ``seed3_fold2.csv``.

    The numbers are looked for in the file's name, then in that of its folder, and so on up to ``root``; without any,
    they are fold 1 and seed 0. The variant is the first of these names that says more than a number or the kind of
    file: ``gru`` of ``gru_seed3.csv``, of ``gru/seed3_fold2.csv`` and of ``gru/fold2/seed3/predictions.csv``.
    """
    folders = [folder for folder in path.resolve().parents if folder.is_relative_to(root.resolve())]
    names = [path.stem, *(folder.name for folder in folders)]
    numbers = {
        key: next((int(found[1]) for name in names if (found := pattern.search(name))), default)
        for (key, pattern), default in zip(_NUMBER.items(), (1, 0), strict=True)
    }
    told = (_without_numbers(name) for name in names)
    variant = next((name for name in told if not _KIND_OF_FILE.fullmatch(name)), names[-1])
    return Place(variant, **numbers)


def _without_numbers(name: str) -> str:
    """``gru`` of ``seed3_gru_fold2``; a name without folds and seeds stays as it is."""
    pieces = [name]
    for pattern in _NUMBER.values():
        pieces = [piece for part in pieces for piece in pattern.sub("\0", part).split("\0")]
    if len(pieces) == 1:
        return name
    return "_".join(bare for piece in pieces if (bare := piece.strip(_SEPARATORS)))


def read_parts(path: Path, root: Path) -> list[Part]:
    """The parts of a table, one per fold and seed: by columns of these names, else as ``place_of`` says.

    Columns may have other usual names (``file``, ``y_true``, ``pred``, ``prob_sad``). Where none says what was
    predicted, it is the most probable emotion.

    Raises:
        SerError: the table has no rows, impossible folds or seeds, or breaks a rule of ``check_predictions``.
    """
    names = _own_names(_header(path))
    content = read_csv(path, "predictions", {old: str for old, own in names.items() if own in TEXTS})
    content = content.rename(columns=names)
    if "predicted" not in content and len(emotions := emotions_of(content)) > 1 and len(content):
        values = content[[PREFIX + name for name in emotions]].apply(pd.to_numeric, errors="coerce").fillna(-1)
        content["predicted"] = values.idxmax(axis=1).str.removeprefix(PREFIX)
    place, numbers = place_of(path, root), pd.DataFrame(index=content.index)
    for key in _NUMBER:
        column = content[key] if key in content else pd.Series(getattr(place, key), content.index)
        numbers[key] = pd.to_numeric(column, errors="coerce")
    if not ((numbers % 1 == 0) & (numbers.abs() < 2**53)).all(axis=None):  # NaN and infinity are neither
        raise SerError(f"{path} has folds or seeds that are not whole numbers; write numbers into these columns.")
    if content.empty:
        raise SerError(f"{path} has no rows, expected one per utterance; write the table again.")
    parts = []
    for _, rows in numbers.astype(int).groupby(["fold", "seed"]):
        fold, seed = map(int, rows.iloc[0])
        table = check_predictions(content.loc[rows.index], str(path))
        labels = sorted(zip(table["id"], table["emotion"], strict=True))
        digest = hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]
        part = {"ids": sorted(table["id"]), "speakers": sorted(table["speaker"].unique()), "utterances": len(table)}
        split = {"emotions": emotions_of(table), "hash": f"table {digest}", "parts": {"test": part}}
        parts.append(Part(fold, seed, split, table))
    return parts


def is_foreign_table(path: Path, root: Path) -> bool:
    """Whether a CSV file is a prediction table that no run folder between it and ``root`` owns."""
    if path.name in _NOT_RESULTS:
        return False
    folders = [folder for folder in path.parents if folder == root or folder.is_relative_to(root)]
    if any((folder / name).is_file() for folder in folders for name in _RUN_FILES):
        return False
    return not missing_columns(path)


def missing_columns(path: Path) -> list[str]:
    """What a file lacks to be a prediction table; probabilities of the emotions say what was predicted, too."""
    names = list(_own_names(_header(path)).values())
    told = "predicted" in names or sum(name.startswith(PREFIX) for name in names) > 1
    return [name for name in ("id", "speaker", "emotion") if name not in names] + ["predicted"] * (not told)


def _header(path: Path) -> list[str]:
    """The names of a table's columns; none of what is no table."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return next(csv.reader([file.readline().strip()]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _own_names(header: Sequence[str]) -> dict[str, str]:
    """What each column is called here; what is not known keeps its name."""
    plain = {name: name.strip().lower() for name in header}
    names = dict(zip(header, header, strict=True))
    for own in ("fold", "seed", "corpus", *COLUMNS):
        if own not in header:
            usual = (own, *_OTHER_NAMES.get(own, ()))
            found = next((name for other in usual for name in header if plain[name] == other), own)
            names |= {found: own} if found in names else {}
    if not any(name.startswith(PREFIX) for name in header):
        for name in header:
            prefix = next((prefix for prefix in _OTHER_PREFIXES if plain[name].startswith(prefix)), None)
            names[name] = PREFIX + name.strip()[len(prefix) :] if prefix else names[name]
    return names
