"""WA, UAR and F1, defined once as functions of the counts of each class.

Counts are arrays (..., 3, C): how often each class is true, predicted, and both. The metrics need no more than that of
a confusion matrix (C, C), and it stays small with many classes; ``class_counts`` makes it. Leading axes are independent
tables (resamples, speakers). Counts may be fractions, as when several seeds of one utterance are averaged. A class
that does not occur in the truth has no recall, precision or F1 (NaN) and does not enter a mean, whatever was predicted.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

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


def class_counts(confusion: npt.ArrayLike) -> np.ndarray:
    """Counts of each class (..., 3, C) from confusion counts (..., C, C): rows are true, columns predicted classes."""
    cells = np.asarray(confusion, dtype=float)
    return np.stack([cells.sum(axis=-1), cells.sum(axis=-2), np.diagonal(cells, axis1=-2, axis2=-1)], axis=-2)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """WA (...): the fraction of right answers; NaN where there is no utterance."""
    truth, _, right = _split(counts)
    return _divide(right.sum(axis=-1), truth.sum(axis=-1))


def recall(counts: np.ndarray) -> np.ndarray:
    """Recall of each class (..., C)."""
    truth, _, right = _split(counts)
    return _divide(right, truth)


def precision(counts: np.ndarray) -> np.ndarray:
    """Precision of each class (..., C); 0 for a class that occurs and is never predicted, as in scikit-learn."""
    truth, predicted, right = _split(counts)
    found = _divide(right, np.where(predicted > 0, predicted, 1.0))
    return np.where(truth > 0, found, np.nan)


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each class (..., C)."""
    truth, predicted, right = _split(counts)
    return np.where(truth > 0, _divide(2 * right, truth + predicted), np.nan)


def uar(counts: np.ndarray) -> np.ndarray:
    """UAR (...): mean recall over the classes that occur in the truth (Schuller et al. 2009)."""
    return _mean_over_present(recall(counts))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 (...) over the classes that occur in the truth."""
    return _mean_over_present(f1(counts))


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 (...) over classes, weighted by how often each occurs in the truth."""
    truth, _, _ = _split(counts)
    return _divide(np.nansum(f1(counts) * truth, axis=-1), truth.sum(axis=-1))


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uar": uar,
    "wa": accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
}


def _split(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each class is true, predicted, and both, (..., C) each."""
    return counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(denominator > 0, numerator / denominator, np.nan))


def _mean_over_present(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without its NaN; NaN where all are."""
    present = np.isfinite(values)
    return _divide(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))
