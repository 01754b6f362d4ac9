"""Confusion counts of many utterances at once: the arithmetic under scores, intervals and tests.

Every metric here is a function of the confusion matrix alone, so resampling utterances is resampling counts.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ser.errors import SerError
from ser.evaluation.predictions import emotions_of


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """WA, plain accuracy, of confusion counts (..., C, C), rows the truth; NaN where there is no utterance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def recall(confusion: np.ndarray) -> np.ndarray:
    """Recall a class (..., C); NaN where the class does not occur in the truth."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.diagonal(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=-1)


def f1(confusion: np.ndarray) -> np.ndarray:
    """F1 a class (..., C); NaN where the class does not occur in the truth."""
    truth = confusion.sum(axis=-1)  # (..., C)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, 2 * right / (truth + confusion.sum(axis=-2)), np.nan)


def mean_recall(confusion: np.ndarray) -> np.ndarray:
    """UAR: mean recall over the classes that occur in the truth (Schuller et al. 2009)."""
    return _mean_over_present(recall(confusion))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur in the truth."""
    return _mean_over_present(f1(confusion))


def weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 weighted by how often each class occurs in the truth."""
    truth = confusion.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(f1(confusion) * truth, axis=-1) / truth.sum(axis=-1)


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "wa": accuracy,
    "uar": mean_recall,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
}


def metric_named(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The metric of confusion counts called ``name``.

    Raises:
        SerError: there is no such metric.
    """
    if name not in METRICS:
        raise SerError(f"{name!r} is not a metric; choose one of {', '.join(METRICS)}.")
    return METRICS[name]


def utterance_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Confusion cells an utterance: index id, columns speaker and the C*C cells in row-major order.

    An id that occurs several times (the same utterance predicted by several seeds) counts once, its cells averaged, so
    that repeating a run with more seeds does not look like having more utterances.
    """
    names = emotions_of(table)
    size = len(names)
    codes = {name: code for code, name in enumerate(names)}
    cells = table["emotion"].map(codes).to_numpy() * size + table["predicted"].map(codes).to_numpy()  # (rows,)
    rows, ids = pd.factorize(table["id"])
    counts = np.zeros((len(ids), size * size))
    np.add.at(counts, (rows, cells), 1.0)
    counts /= np.bincount(rows)[:, None]  # (U, C*C), each row sums to one
    first = ~table["id"].duplicated()
    frame = pd.DataFrame(counts, index=pd.Index(ids, name="id"))
    frame.insert(0, "speaker", table.loc[first, "speaker"].to_numpy())
    return frame


def _mean_over_present(values: np.ndarray) -> np.ndarray:
    present = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(present, values, 0.0).sum(axis=-1) / present.sum(axis=-1)
