"""The files that evaluation reads: predictions, pooled features and the training history.

Tables of other tools work, too (``ser.evaluation.foreign``): they need the columns ``id, speaker, emotion`` and one
``p_<emotion>`` per class.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from ser.data.corpus import find_gender
from ser.errors import SerError
from ser.evaluation.bootstrap import Counts
from ser.io import atomic_path

PREFIX = "p_"
REQUIRED = ("id", "speaker", "emotion", "predicted")
COLUMNS = ("id", "session", "speaker", "gender", "seconds", "emotion", "predicted")
TEXTS = dict.fromkeys(("id", "speaker", "gender", "corpus", "emotion", "predicted"), str)
TOLERANCE = 1e-3
ROUNDING = 5e-5  # per class: by how much the sum of probabilities with four decimals can be off


def emotions_of(table: pd.DataFrame) -> list[str]:
    """The emotion names of a prediction table in class order, from its ``p_`` columns."""
    return [column.removeprefix(PREFIX) for column in table.columns if column.startswith(PREFIX)]


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """The class probabilities, (n, C) float64, columns in class order."""
    return table[[PREFIX + emotion for emotion in emotions_of(table)]].to_numpy(dtype=float)


class UtteranceCounts(NamedTuple):
    """Answers per utterance: ids (U,), speakers (U,), and ``Counts`` with K = 3 C (``ser.metrics``, flat)."""

    ids: np.ndarray
    speakers: np.ndarray
    counts: Counts


def utterance_counts(table: pd.DataFrame) -> UtteranceCounts:
    """How often each class is true, predicted, and both, per utterance.

    An id that occurs several times (the same utterance predicted by several seeds) counts once, its rows averaged, so
    that repeating a run with more seeds does not look like having more utterances.
    """
    names = emotions_of(table)
    size = len(names)
    codes = {name: code for code, name in enumerate(names)}
    cells = table["emotion"].map(codes).to_numpy() * size + table["predicted"].map(codes).to_numpy()  # (rows,)
    rows, ids = pd.factorize(table["id"])
    order = np.lexsort((cells, rows))
    answers = np.bincount(rows)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(answers) - answers, answers)  # of each row inside its utterance
    keys = np.ones((len(ids), answers.max()), dtype=np.int64)  # 1: no further answer
    keys[rows[order], place] = -cells[order]
    patterns, which = np.unique(keys, axis=0, return_inverse=True)  # (P, seeds), (U,)
    index, seed = np.nonzero(patterns <= 0)
    truth, predicted = np.divmod(-patterns[index, seed], size)
    right = truth == predicted
    columns = np.concatenate([truth, size + predicted, 2 * size + truth[right]])
    index = np.concatenate([index, index, index[right]])
    weights = 1.0 / (patterns <= 0).sum(axis=1)[index]
    counts = Counts(csr_array((weights, (index, columns)), shape=(len(patterns), 3 * size)), which.ravel())
    return UtteranceCounts(np.asarray(ids), table.loc[~table["id"].duplicated(), "speaker"].to_numpy(), counts)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """The checked content of a ``predictions.csv``.

    Columns that other tools may lack get defaults: ``session`` 1, ``gender`` "" and ``seconds`` 0 (unknown). A column
    ``corpus`` is kept, further ones are dropped. Labels, ids and speakers are text ("03" stays "03").

    Raises:
        SerError: the file is absent, is no CSV, or its table breaks a rule of ``check_predictions``.
    """
    return check_predictions(read_csv(Path(path), "predictions", TEXTS), str(path))


def check_predictions(table: pd.DataFrame, source: str = "the prediction table") -> pd.DataFrame:
    """``table`` with the columns, types and order that ``predictions.csv`` has.

    Raises:
        SerError: missing columns, no rows, duplicate or empty ids, unknown labels, or probabilities that are not
            numbers in [0, 1] or do not sum to one within 1e-3 (5e-5 per class, where that is more).
    """
    emotions = emotions_of(table)
    missing = [column for column in REQUIRED if column not in table.columns]
    if missing or len(emotions) < 2:
        lacking = missing + ([] if len(emotions) > 1 else ["p_<emotion> (one per class, at least two)"])
        raise SerError(
            f"{source} lacks the column(s) {', '.join(lacking)}; a prediction table has "
            f"{', '.join(REQUIRED)} and one column p_<emotion> per class, its probability, so add or rename them."
        )
    if table.empty:
        raise SerError(f"{source} has a header and no rows; give a table with at least one utterance.")
    values = table[[PREFIX + emotion for emotion in emotions]]
    if not all(kind.kind == "f" for kind in values.dtypes):  # a copy of a large table less
        values = values.apply(pd.to_numeric, errors="coerce").astype(float)
    table = table.drop(columns=values.columns).assign(**{name: table[name].astype(str) for name in REQUIRED})
    _check_names(table, emotions, source)
    _check_probabilities(table["id"], values.to_numpy(), source)
    table = _with_optional_columns(table, source)[[*COLUMNS, *table.columns.intersection(["corpus"])]]
    return pd.concat([table, values], axis=1).reset_index(drop=True)


def write_predictions(path: str | Path, table: pd.DataFrame) -> None:
    """Check ``table`` and write it to ``path``, whole or not at all.

    Raises:
        SerError: the table breaks a rule of ``check_predictions``, or ``path`` cannot be written.
    """
    table = check_predictions(table)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8")


def read_embeddings(path: str | Path, rows: int) -> np.ndarray:
    """Pooled features (n, P) of float32, checked to have ``rows`` rows; never unpickles.

    Raises:
        SerError: the file is absent or no plain array, or has another number of rows, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise SerError(f"there is no features file {path}; give the embeddings.npy of a finished run.")
    try:
        features = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SerError(
            f"{path} is not a plain NumPy array (.npy without pickled objects); save it again with "
            "numpy.save from a float array."
        ) from error
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind not in "fiu":
        raise SerError(f"{path} does not hold one table of numbers (n, P); save one row of features per utterance.")
    if len(features) != rows:
        raise SerError(
            f"{path} has {len(features)} rows and its prediction table has {rows}; both must come from "
            "the same run, so write them again together."
        )
    if not np.isfinite(features).all():
        raise SerError(
            f"{path} holds values that are not finite; find the utterances with NaN features and predict again."
        )
    return features.astype(np.float32, copy=False)


def write_embeddings(path: str | Path, features: np.ndarray) -> None:
    """Write pooled features (n, P) as float32 to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        np.save(temporary, np.asarray(features, dtype=np.float32), allow_pickle=False)


def read_history(path: str | Path) -> pd.DataFrame:
    """A ``history.csv``: one row per epoch, columns named ``train/uar``, ``alpha``..., all of them numbers.

    Raises:
        SerError: the file is absent, is no CSV, or has no ``epoch`` column or no rows.
    """
    table = read_csv(Path(path), "history")
    if "epoch" not in table.columns or table.empty:
        raise SerError(f"{path} is not a training history; it needs an epoch column and at least one row.")
    return table.apply(pd.to_numeric, errors="coerce")


def read_csv(path: Path, kind: str, dtype: Mapping[str, type] | None = None) -> pd.DataFrame:
    """A CSV file in which "None" and "NA" are text: they can be the name of an emotion or a speaker."""
    if not path.is_file():
        raise SerError(f"there is no {kind} table {path}; give the CSV file of a finished run.")
    try:
        table = pd.read_csv(
            path, dtype=dtype, keep_default_na=False, float_precision="round_trip", encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError, OSError) as error:
        raise SerError(
            f"{path} cannot be read as a {kind} table; give a comma-separated UTF-8 file with a header line."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first values as names of the rows
        raise SerError(f"{path} has rows with more values than its header names; name every column.")
    return table


def _check_names(table: pd.DataFrame, emotions: list[str], source: str) -> None:
    for column in ("id", "speaker"):
        empty = table[column].str.strip().isin(["", "nan"])
        if empty.any():
            raise SerError(
                f"{source} has {int(empty.sum())} row(s) without a value in {column} (the first is row "
                f"{int(np.argmax(empty)) + 1}); every utterance needs one."
            )
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise SerError(
            f"{source} has the id {repeated.iloc[0]} more than once ({len(repeated)} repeated row(s)); "
            "every utterance must occur once."
        )
    for column in ("emotion", "predicted"):
        unknown = sorted(set(table[column]) - set(emotions))
        if unknown:
            raise SerError(
                f"{source} has the unknown label(s) {', '.join(map(repr, unknown[:5]))} in {column}; its p_ "
                f"columns name {', '.join(emotions)}, so use those or add the missing p_ column."
            )


def _check_probabilities(ids: pd.Series, values: np.ndarray, source: str) -> None:
    tolerance = max(TOLERANCE, ROUNDING * values.shape[1])
    faults = {
        "probabilities that are not numbers": ~np.isfinite(values).all(axis=1),
        "probabilities outside 0 to 1": ((values < -TOLERANCE) | (values > 1 + TOLERANCE)).any(axis=1),
        "probabilities that do not sum to one": np.abs(values.sum(axis=1) - 1) > tolerance,
    }
    for fault, rows in faults.items():
        if rows.any():
            raise SerError(
                f"{source} has {int(rows.sum())} row(s) with {fault} (the first is id "
                f"{ids.iloc[int(np.argmax(rows))]}); write softmax outputs, one column per class."
            )


def _with_optional_columns(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Defaults for ``session``, ``gender`` and ``seconds``; sessions become integers where all of them are."""
    defaults: dict[str, Any] = {"session": 1, "gender": "", "seconds": 0.0}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table.columns})
    sessions = pd.to_numeric(table["session"], errors="coerce")
    whole = bool((sessions % 1 == 0).all())  # false for NaN
    genders = table["gender"].fillna("").astype(str).str.strip()
    seconds = pd.to_numeric(table["seconds"], errors="coerce").fillna(0.0).astype(float)
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise SerError(
            f"{source} has negative or infinite seconds; give each utterance's length in seconds, 0 for unknown."
        )
    return table.assign(
        session=sessions.astype(int) if whole else table["session"].astype(str),
        gender=genders.map(lambda name: name if (known := find_gender(name)) is None else known),
        seconds=seconds,
    )
