"""WA, UAR and F1, defined once as functions of confusion counts.

Counts are arrays (..., C, C): rows are the true class, columns the predicted one, leading axes are independent
tables (resamples, speakers). Counts may be fractions, as when several seeds of one utterance are averaged. A class
that does not occur in the truth has no recall, precision or F1 (NaN) and does not enter a mean, whatever was predicted.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ser.errors import SerError

TITLES = {"uar": "UAR", "wa": "WA", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}  # UAR first: it selects
MEANINGS = {
    "uar": "unweighted average recall: the mean recall over classes",
    "wa": "weighted accuracy: the fraction of right answers",
    "macro_f1": "the mean F1 over classes",
    "weighted_f1": "the mean F1 over classes, weighted by how often each occurs",
}


def confusion_counts(truth: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Confusion counts (C, C) of integers for answers given by class name; every name must be in ``names``."""
    code = {name: place for place, name in enumerate(names)}
    cells = [code[true] * len(names) + code[guess] for true, guess in zip(truth, predicted, strict=True)]
    return np.bincount(cells, minlength=len(names) ** 2).reshape(len(names), len(names))


def accuracy(confusion: npt.ArrayLike) -> np.ndarray:
    """WA (...): the fraction of right answers; NaN where there is no utterance."""
    counts = np.asarray(confusion, dtype=float)
    return _divide(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def recall(confusion: npt.ArrayLike) -> np.ndarray:
    """Recall of each class (..., C)."""
    counts = np.asarray(confusion, dtype=float)
    return _divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def precision(confusion: npt.ArrayLike) -> np.ndarray:
    """Precision of each class (..., C); 0 for a class that occurs and is never predicted, as in scikit-learn."""
    counts = np.asarray(confusion, dtype=float)
    predicted = counts.sum(axis=-2)
    found = _divide(np.diagonal(counts, axis1=-2, axis2=-1), np.where(predicted > 0, predicted, 1.0))
    return np.where(counts.sum(axis=-1) > 0, found, np.nan)


def f1(confusion: npt.ArrayLike) -> np.ndarray:
    """F1 of each class (..., C)."""
    counts = np.asarray(confusion, dtype=float)
    truth = counts.sum(axis=-1)
    found = _divide(2 * np.diagonal(counts, axis1=-2, axis2=-1), truth + counts.sum(axis=-2))
    return np.where(truth > 0, found, np.nan)


def uar(confusion: npt.ArrayLike) -> np.ndarray:
    """UAR (...): mean recall over the classes that occur in the truth (Schuller et al. 2009)."""
    return _mean_over_present(recall(confusion))


def macro_f1(confusion: npt.ArrayLike) -> np.ndarray:
    """Mean F1 (...) over the classes that occur in the truth."""
    return _mean_over_present(f1(confusion))


def weighted_f1(confusion: npt.ArrayLike) -> np.ndarray:
    """Mean F1 (...) over classes, weighted by how often each occurs in the truth."""
    truth = np.asarray(confusion, dtype=float).sum(axis=-1)
    return _divide(np.nansum(f1(confusion) * truth, axis=-1), truth.sum(axis=-1))


METRICS: dict[str, Callable[[npt.ArrayLike], np.ndarray]] = {
    "uar": uar,
    "wa": accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
}


def metric_named(name: str) -> Callable[[npt.ArrayLike], np.ndarray]:
    """The metric called ``name`` in ``METRICS``.

    Raises:
        SerError: there is no such metric.
    """
    if name not in METRICS:
        raise SerError(f"{name!r} is not a metric; choose one of {', '.join(METRICS)}.")
    return METRICS[name]


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(denominator > 0, numerator / denominator, np.nan))


def _mean_over_present(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without its NaN; NaN where all are."""
    present = np.isfinite(values)
    return _divide(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))
