"""Intervals of a metric, and whether two results differ: paired tests, effect sizes, Holm's correction."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse import hstack

from ser.errors import SerError
from ser.evaluation.bootstrap import CELLS_AT_ONCE, Bounds, Counts, bootstrap_bounds
from ser.evaluation.predictions import emotions_of, utterance_counts
from ser.evaluation.scores import scores
from ser.metrics import METRICS

MOST_PERMUTED = 1000  # units; of more, signs are drawn here, many times faster than scipy permutes


class Interval(NamedTuple):
    """An estimate with the bounds of its 95% interval; NaN where speakers are too few for one."""

    estimate: float
    low: float
    high: float


def bootstrap_intervals(table: pd.DataFrame, repetitions: int | None = None) -> dict[str, Interval]:
    """Every metric of a prediction table with its 95% interval over speakers (see ``bootstrap_bounds``).

    Ids that occur several times (seeds) count as one utterance.
    """
    _, speakers, counts = utterance_counts(table)
    return _intervals(bootstrap_bounds(counts, speakers, metrics_of, repetitions=repetitions))


def bootstrap_interval(table: pd.DataFrame) -> Interval:
    """The UAR of a prediction table with its 95% interval over speakers."""
    return bootstrap_intervals(table)["uar"]


def scores_with_interval(table: pd.DataFrame) -> dict[str, Any]:
    """``scores`` with ``uar_interval``: 95% over speakers, None where there are too few."""
    found = bootstrap_interval(table)
    return {**scores(table), "uar_interval": None if math.isnan(found.low) else [found.low, found.high]}


def difference_intervals(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Interval]:
    """Each metric of ``b`` minus that of ``a`` on the same utterances, with 95% intervals over speakers.

    Raises:
        SerError: the tables do not hold the same utterances, labels and classes.
    """
    left, right, speakers = _paired_counts(a, b)
    rows, which = np.unique(np.stack([left.which, right.which], axis=1), axis=0, return_inverse=True)  # (P, 2), (U,)
    both = hstack([left.patterns[rows[:, 0]], right.patterns[rows[:, 1]]], format="csr")  # (P, 2 * 3 C)

    def difference(sums: np.ndarray) -> np.ndarray:
        first, second = np.split(sums, 2, axis=-1)
        return metrics_of(second) - metrics_of(first)

    return _intervals(bootstrap_bounds(Counts(both, which.ravel()), speakers, difference, limits=(-1.0, 1.0)))


def permutation_tests(
    a: pd.DataFrame,
    b: pd.DataFrame,
    by: Literal["speaker", "utterance"] = "speaker",
    repetitions: int = 5000,
    seed: int = 0,
) -> dict[str, float]:
    """Two-sided paired permutation tests of metric(b) - metric(a): the predictions of a and b are swapped at random.

    ``by="speaker"`` swaps all utterances of a speaker together, which stays valid when a model is better for some
    speakers and worse for others; it needs six speakers to reach p < .05. ``by="utterance"`` swaps each utterance by
    itself, as if utterances of one speaker had nothing in common, and finds too many differences.

    Few units are not drawn but enumerated.

    Returns:
        The p-value of each metric.

    Raises:
        SerError: the tables do not hold the same utterances, labels and classes.
    """
    left, right, speakers = _paired_counts(a, b)
    units = pd.factorize(speakers, sort=True)[0] if by == "speaker" else np.arange(len(speakers))
    first, second = left.sums(units), right.sums(units)
    total = first.sum(axis=0) + second.sum(axis=0)
    changes = second - first  # (U, 3 C)
    changes = changes[abs(changes).max(axis=1).toarray().ravel() > 1e-12]  # swapping equal answers changes nothing
    differing = changes.shape[0]

    def difference(signs: np.ndarray, axis: int = -1) -> np.ndarray:  # (..., U), +1 as it is and -1 swapped
        shift = signs @ changes  # (..., 3 C): counts of b minus counts of a
        # Rounded, so that arrangements with the same result are ties.
        return np.round(metrics_of((total + shift) / 2) - metrics_of((total - shift) / 2), 12)

    if differing < 2:  # swapping one unit changes the sign of the difference only
        return dict.fromkeys(METRICS, 1.0)
    return dict(zip(METRICS, map(float, _permuted(difference, differing, repetitions, seed)), strict=True))


def _permuted(difference: Callable[..., np.ndarray], units: int, repetitions: int, seed: int) -> np.ndarray:
    """Two-sided p-values (M,) of differences as functions of the signs (r, units)."""
    ones, batch = np.ones(units), max(1, CELLS_AT_ONCE // (2 * units))
    if units > MOST_PERMUTED:
        generator = np.random.default_rng(seed)
        sizes = [min(batch, repetitions - start) for start in range(0, repetitions, batch)]
        drawn = [difference(2.0 * generator.integers(2, size=(rows, units), dtype=np.int8) - 1) for rows in sizes]
        null, observed = np.concatenate(drawn), difference(ones)  # (R, M), (M,)
        extreme = np.minimum((null <= observed).sum(axis=0), (null >= observed).sum(axis=0))
        return np.asarray(np.minimum(1.0, 2 * (extreme + 1) / (repetitions + 1)))
    kind: dict[str, Any] = {"permutation_type": "samples", "vectorized": True}
    found = stats.permutation_test((ones,), difference, n_resamples=repetitions, batch=batch, rng=seed, **kind)
    return np.asarray(found.pvalue)


def corrected_t_test(
    differences: Sequence[float] | np.ndarray, train_sizes: Sequence[float], test_sizes: Sequence[float]
) -> dict[str, float | None]:
    """Result of a t-test of differences over folds whose training sets overlap (Nadeau & Bengio 2003, equation 9).

    The variance of the mean is (1/K + n_test/n_train) s^2 with K - 1 degrees of freedom: folds that share training data
    agree more than independent experiments would. Differences are those of the folds (K,), seeds averaged, because
    another seed is no further sample of the data. Sizes are utterances of each fold's part (K,).

    Returns:
        ``mean, low, high`` (95%) and ``p``; with fewer than two folds, or folds that differ by exactly the same
        non-zero amount, the test is undefined and its figures are None.
    """
    values = np.asarray(differences, dtype=float)
    folds, mean = len(values), float(values.mean())
    result: dict[str, float | None] = {"mean": mean, "low": None, "high": None, "p": None}
    if folds < 2:
        return result
    ratio = float(np.mean(np.asarray(test_sizes, dtype=float) / np.asarray(train_sizes, dtype=float)))
    error = math.sqrt((1 / folds + ratio) * float(values.var(ddof=1)))
    if error < 1e-12:
        return result if abs(mean) > 1e-12 else result | {"low": 0.0, "high": 0.0, "p": 1.0}
    reach = float(stats.t.ppf(0.975, folds - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, folds - 1))
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p}


def effect_size(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """d_z of ``b`` - ``a`` for paired values: their mean difference over its standard deviation (Lakens 2013).

    None where there is no spread to divide by, and for a single pair.
    """
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    if len(difference) < 2 or (std := difference.std(ddof=1)) < 1e-12:
        return None
    return float(difference.mean() / std)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction (1979); undefined tests (None) stay None and do not count."""
    ordered = sorted((p, index) for index, p in enumerate(p_values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p))
        adjusted[index] = running
    return adjusted


def metrics_of(flat: np.ndarray) -> np.ndarray:
    """Every metric (..., M) of flat counts (..., 3 C)."""
    counts = flat.reshape(*flat.shape[:-1], 3, -1)
    return np.stack([metric(counts) for metric in METRICS.values()], axis=-1)


def _intervals(bounds: Bounds) -> dict[str, Interval]:
    return {name: Interval(*map(float, row)) for name, row in zip(METRICS, np.stack(bounds, axis=1), strict=True)}


def _paired_counts(a: pd.DataFrame, b: pd.DataFrame) -> tuple[Counts, Counts, np.ndarray]:
    """Counts of both tables in the same order of ids, and the speakers (U,)."""
    labels = [table.drop_duplicates("id").set_index("id")["emotion"].sort_index() for table in (a, b)]
    if emotions_of(a) != emotions_of(b) or not labels[0].equals(labels[1]):
        raise SerError(
            f"the results have {len(labels[0])} and {len(labels[1])} utterances, expected the same ones with the same "
            "labels and classes, as paired tests need; give two results of one split."
        )
    left, right = utterance_counts(a), utterance_counts(b)
    places = pd.Index(right.ids).get_indexer(left.ids)
    return left.counts, Counts(right.counts.patterns, right.counts.which[places]), left.speakers
