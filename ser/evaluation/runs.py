"""Finished runs on disk, and prediction tables of other tools in their place."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from ser.config.identity import first_difference
from ser.errors import SerError
from ser.evaluation.foreign import is_foreign_table, missing_columns, place_of, read_parts
from ser.evaluation.predictions import emotions_of, read_embeddings, read_history, read_predictions
from ser.evaluation.scores import scores
from ser.io import require_json

log = logging.getLogger(__name__)

# Labels that a result must carry, by the key that declares it in split.json and metrics.json.
WARNINGS = {
    "speaker_overlap": "speaker overlap: test speakers occur in training, so this is not a result on unseen speakers",
    "transductive": "transductive: uses unlabelled audio of the test speakers",
    "trusted_frames": "unchecked frames: cached frames were used without their audio (extraction.trust_cache)",
}
_AGAIN = "a finished run has it, so run it again"
# Kinds of the entries that are read; those that may be missing are None then.
_METRICS: dict[str, Any] = {"variant": str, "fold": int, "seed": int}
_METRICS |= dict.fromkeys(("test", "validation"), dict | None)
_METRICS |= dict.fromkeys(("best_epoch", "epochs", "parameters", "trainable_parameters"), int | None)
_METRICS |= dict.fromkeys(("seconds", "prediction_seconds"), int | float | None)
_SPLIT = {"hash": str, "parts": dict, "folds": int | None, "emotions": list | None, "left_out": dict | None}


class UntestedRunError(SerError):
    """The run belongs to a search, or was made with ``test=false``."""


@dataclass(frozen=True)
class Run:
    """One finished run: a network trained on one fold with one seed."""

    folder: Path  # where its files are
    variant: str  # what was compared in the sweep, for example ``enhanced_gru``
    fold: int  # the held-out part, from 1
    seed: int  # of the training
    metrics: dict[str, Any] = field(repr=False)  # ``metrics.json``; empty for a table made by another tool
    split: dict[str, Any] = field(repr=False)  # ``split.json``; of such a table only the test part is known
    predictions: pd.DataFrame = field(repr=False, compare=False)  # of the test part
    table_path: Path = field(repr=False)  # where these were read

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """The training history, None where the run kept none."""
        path = self.folder / "history.csv"
        return read_history(path) if self.metrics and path.is_file() else None

    @cached_property
    def test(self) -> dict[str, Any]:
        """Scores of the test part, computed from the table, not copied from ``metrics.json``."""
        return scores(self.predictions)

    @cached_property
    def leakage(self) -> dict[str, Any] | None:
        """The result of the speaker probe, None where it was not run."""
        return self._own_json("leakage.json", f"measure again with ser probe {self.folder}")

    @cached_property
    def identity(self) -> dict[str, Any] | None:
        """What the run was made of, by its ``run.json``; None for results of other tools."""
        found = (self._own_json("run.json") or {}).get("identity")
        return found if isinstance(found, dict) else None

    def _own_json(self, name: str, remedy: str = _AGAIN) -> dict[str, Any] | None:
        path = self.folder / name
        return require_json(path, remedy) if self.metrics and path.is_file() else None

    @property
    def emotions(self) -> list[str]:
        """Class names in order."""
        return emotions_of(self.predictions)

    @property
    def origin(self) -> str:
        """``trained on X, tested on Y`` where a model was tested on other data than its own (``ser evaluate``)."""
        trained_on = self.metrics.get("trained_on")
        return f"trained on {trained_on}, tested on {self.metrics['corpus']}" if trained_on else ""

    @property
    def hash(self) -> str:
        """Identity of corpus, labels and parts."""
        return str(self.split["hash"])

    def warns(self, key: str) -> bool:
        """Whether one of ``WARNINGS`` holds: as declared, or, of speaker overlap, as the split itself shows."""
        parts = self.split["parts"]
        shared = set(parts.get("train", {}).get("speakers", ())) & set(parts["test"].get("speakers", ()))
        return bool((shared and key == "speaker_overlap") or self.split.get(key) or self.metrics.get(key))

    @property
    def deterministic(self) -> bool:
        """Whether the run would be the same with every other seed."""
        return bool(self.metrics.get("deterministic"))


def load_run(folder: str | Path) -> Run:
    """Load one finished run folder, or one prediction table (``.csv``) made by another tool.

    Raises:
        SerError: there is nothing there, the run is not finished or tested, its files are damaged or do not belong
            together, or the table holds several folds or seeds.
    """
    folder = Path(folder)
    if folder.suffix.lower() == ".csv":
        runs = _table_as_runs(folder, folder.stem, folder.parent)
        if len(runs) > 1:
            raise SerError(f"{folder} holds {len(runs)} folds or seeds, expected one; give the table of one run.")
        return runs[0]
    if not (folder / "metrics.json").is_file():
        raise SerError(
            f"{folder} is not a finished run: it has no metrics.json; give the folder of a run that ended, "
            "or start the run again to finish it."
        )
    metrics = require_json(folder / "metrics.json", _AGAIN, kinds=_METRICS)
    split = require_json(folder / "split.json", _AGAIN, kinds=_SPLIT)
    _refuse_untested(folder, metrics)
    tested = split["parts"].get("test")
    ids = tested.get("ids") if isinstance(tested, dict) else None
    if not isinstance(ids, list):
        raise SerError(f"{folder / 'split.json'} has no parts.test.ids; {_AGAIN}.")
    path = folder / "predictions.csv"
    table = read_predictions(path)
    if sorted(table["id"]) != sorted(ids):
        raise SerError(
            f"{path} has {len(table)} utterances, not the {len(ids)} of the test part in split.json; it is cut off or "
            "from another run, so run it again."
        )
    return Run(folder, metrics["variant"], metrics["fold"], metrics["seed"], metrics, split, table, path)


def _refuse_untested(folder: Path, metrics: Mapping[str, Any]) -> None:
    if metrics.get("protocol") == "everyone":
        sweep = (metrics.get("cross_validation") or {}).get("folder", "the sweep of its variant")
        raise UntestedRunError(
            f"the run {folder} was trained on all speakers (protocol=everyone), so it has no test part; what is known "
            f"of it was measured by {sweep}: give that folder."
        )
    if "test" not in metrics:
        raise UntestedRunError(
            f"the run {folder} was never tested (it belongs to a search, or had test=false); run it again "
            "with test=true resume=true to test it."
        )


def find_runs(path: str | Path) -> list[Run]:
    """``scan_runs`` with a warning in the log for each run that was left out."""
    runs, left_out = scan_runs(path)
    for reason in left_out:
        log.warning("left out: %s", reason)
    return runs


def scan_runs(path: str | Path) -> tuple[list[Run], list[str]]:
    """Every finished and tested run in a folder and below, and every prediction table that is not part of a run.

    Names of tables and folders say variant, fold and seed (``place_of``), unless columns say fold and seed.

    Returns:
        The runs by variant, fold and seed, and one error message for each damaged run that is left out. Runs that are
        not finished or not tested are skipped silently.

    Raises:
        SerError: nothing is there, nothing in it can be read, or one variant, fold and seed occurs twice.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return _table_as_runs(path, path.stem, path.parent), []
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise SerError(f"{path} {what}, expected a run folder, the folder of a sweep, or a prediction table (.csv).")
    # A name with a dot: a run that is about to take the place of an earlier one.
    folders = [file.parent for file in path.rglob("metrics.json") if not file.parent.name.startswith(".")]
    tables = [file for file in path.rglob("*.csv") if is_foreign_table(file, path)]
    if not folders and not tables:
        lacking = {file: missing for file in path.rglob("*.csv") if (missing := missing_columns(file))}
        nearest = min(lacking, key=lambda file: len(lacking[file]), default=None)
        lacks = f"; {nearest} has no column {', '.join(lacking[nearest])}" if nearest else ""
        raise SerError(
            f"{path} holds no finished run (no metrics.json in it or below) and no prediction table (.csv with id, "
            f"speaker, emotion, p_<emotion> ...{lacks}); train first, or give the folder that holds the runs."
        )
    runs, left_out, untested = load_runs(folders)
    for table in tables:
        try:
            runs += _table_as_runs(table, place_of(table, path).variant, path)
        except SerError as error:
            left_out.append(str(error))
    if not runs:
        raise SerError((left_out or untested)[0])
    runs.sort(key=lambda run: (run.variant, run.fold, run.seed, str(run.table_path)))
    for one, other in pairwise(runs):
        if (one.variant, one.fold, one.seed) == (other.variant, other.fold, other.seed):
            raise SerError(
                f"{one.table_path.parent} and {other.table_path.parent} are both {one.variant}, fold {one.fold}, seed "
                f"{one.seed}; give a folder that holds one sweep, or move one of them away."
            )
    return runs, left_out


def load_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str], list[str]]:
    """The runs in these folders, one error message for each damaged one, and one for each that was never tested."""
    runs: list[Run] = []
    damaged: list[str] = []
    untested: list[str] = []
    for folder in folders:
        try:
            run = load_run(folder)
            _ = run.history, run.leakage, run.identity  # so that a damaged file is found here
            if (run.folder / "embeddings.npy").is_file():
                read_embeddings(run.folder / "embeddings.npy", len(run.predictions))
            runs.append(run)
        except UntestedRunError as error:
            untested.append(str(error))
        except SerError as error:
            damaged.append(str(error))
    refuse_mixed(runs)
    return runs, damaged, untested


def refuse_mixed(runs: Sequence[Run]) -> None:
    """Refuse runs of one variant that differ in more than fold and seed: a mean over them would mean nothing."""
    first: dict[str, tuple[Run, dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (run.variant, run.fold, run.seed)):
        if run.identity is None:
            continue
        other, expected = first.setdefault(run.variant, (run, run.identity))
        if (difference := first_difference(expected, run.identity, ignored=("fold", "seed", "split"))) is not None:
            raise SerError(
                f"{other.folder} and {run.folder} are both {run.variant}, but the first has {difference} in the "
                "second; run one of them again, or give a folder with only one kind of run."
            )


def pooled(runs: Sequence[Run]) -> pd.DataFrame:
    """The test tables of several runs under one another; an utterance occurs once per seed."""
    return pd.concat([run.predictions for run in runs], ignore_index=True)


def by_fold(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """The runs of each fold, folds ascending."""
    return {fold: [run for run in runs if run.fold == fold] for fold in sorted({run.fold for run in runs})}


def by_variant(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each variant, in their order."""
    return {name: [run for run in runs if run.variant == name] for name in dict.fromkeys(run.variant for run in runs)}


def declared(runs: Sequence[Run]) -> dict[str, bool]:
    """Which of ``WARNINGS`` hold for any of these runs."""
    return {key: any(run.warns(key) for run in runs) for key in WARNINGS}


def warnings_in(facts: Mapping[str, Any]) -> list[str]:
    """The labels of a result with these facts."""
    return [text for key, text in WARNINGS.items() if facts.get(key)]


def marks_of(facts: Mapping[str, Any]) -> list[str]:
    """The same labels in one or two words each."""
    return [text.partition(":")[0] for text in warnings_in(facts)]


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """The labels of results of these runs, each with its variants where it does not hold for all."""
    phrases = list(dict.fromkeys(run.origin for run in runs if run.origin))
    for key, text in WARNINGS.items():
        flagged = sorted({run.variant for run in runs if run.warns(key)})
        if flagged:
            everywhere = len(flagged) == len({run.variant for run in runs})
            phrases.append(text if everywhere else f"{text} ({'; '.join(flagged)})")
    return phrases


def _table_as_runs(path: Path, variant: str, root: Path) -> list[Run]:
    parts = read_parts(path, root)
    return [Run(path.parent, variant, fold, seed, {}, split, table, path) for fold, seed, split, table in parts]
