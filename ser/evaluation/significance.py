"""Intervals of a metric, and whether two results differ: paired tests, effect sizes, Holm's correction."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ser.errors import SerError
from ser.evaluation.bootstrap import CELLS_AT_ONCE, bootstrap_bounds
from ser.evaluation.predictions import emotions_of, utterance_counts
from ser.evaluation.scores import scores
from ser.metrics import metric_named


class Interval(NamedTuple):
    """An estimate with the bounds of its 95% interval; NaN where speakers are too few for one."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(table: pd.DataFrame, metric: str = "uar", repetitions: int = 1000, seed: int = 0) -> Interval:
    """A metric of a prediction table with its 95% interval over speakers (see ``bootstrap_bounds``).

    Args:
        table: predictions; ids that occur several times (seeds) count as one utterance.
        metric: ``wa``, ``uar``, ``macro_f1`` or ``weighted_f1``.
        repetitions: number of resamples.
        seed: of the resampling.

    Raises:
        SerError: unknown metric.
    """
    counts, function = utterance_counts(table), _of_cells(metric)
    vectors, speakers = counts.drop(columns="speaker").to_numpy(), counts["speaker"].to_numpy()
    bounds = bootstrap_bounds(
        vectors, speakers, lambda sums: function(sums.sum(axis=1)), repetitions=repetitions, seed=seed
    )
    return Interval(*(float(bound[0]) for bound in bounds))


def scores_with_interval(table: pd.DataFrame) -> dict[str, Any]:
    """``scores`` with ``uar_interval``: 95% over speakers, None where there are too few."""
    found = bootstrap_interval(table)
    return {**scores(table), "uar_interval": None if math.isnan(found.low) else [found.low, found.high]}


def difference_interval(
    a: pd.DataFrame, b: pd.DataFrame, metric: str = "uar", repetitions: int = 1000, seed: int = 0
) -> Interval:
    """Metric of ``b`` minus metric of ``a`` on the same utterances, with a 95% interval over speakers.

    Raises:
        SerError: the tables do not hold the same utterances, labels and classes.
    """
    left, right, speakers = _paired_counts(a, b)
    cells, function = left.shape[1], _of_cells(metric)

    def difference(sums: np.ndarray) -> np.ndarray:
        total = sums.sum(axis=1)
        return function(total[:, cells:]) - function(total[:, :cells])

    both = np.concatenate([left, right], axis=1)  # (U, 2*C*C)
    bounds = bootstrap_bounds(both, speakers, difference, repetitions=repetitions, seed=seed, limits=(-1.0, 1.0))
    return Interval(*(float(bound[0]) for bound in bounds))


def permutation_test(
    a: pd.DataFrame, b: pd.DataFrame, metric: str = "uar", by: str = "speaker", repetitions: int = 5000, seed: int = 0
) -> dict[str, Any]:
    """Two-sided paired permutation test of metric(b) - metric(a): swaps the predictions of a and b at random.

    ``by="speaker"`` swaps all utterances of a speaker together, which stays valid when a model is better for some
    speakers and worse for others; it needs six speakers to reach p < .05. ``by="utterance"`` swaps each utterance by
    itself, as if utterances of one speaker had nothing in common, and finds too many differences.

    Returns:
        ``difference, p, units, exact``; ``exact`` where all arrangements were enumerated.

    Raises:
        SerError: the tables do not hold the same utterances, labels and classes, or ``by`` is unknown.
    """
    if by not in {"speaker", "utterance"}:
        raise SerError(f"cannot swap by {by!r}; choose speaker or utterance.")
    left, right, speakers = _paired_counts(a, b)
    function = _of_cells(metric)
    differing = right - left  # (U, C*C)
    if by == "speaker":
        differing = pd.DataFrame(differing).groupby(speakers).sum().to_numpy()
    units = len(differing)
    differing = differing[np.abs(differing).max(axis=1) > 1e-12]  # swapping equal predictions changes nothing
    total = left.sum(axis=0) + right.sum(axis=0)

    def difference(signs: np.ndarray, axis: int = -1) -> np.ndarray:  # (..., U), +1 as it is and -1 swapped
        shift = signs @ differing  # (..., C*C): counts of b minus counts of a
        # Rounded, so that arrangements with the same result are ties.
        return np.round(function((total + shift) / 2) - function((total - shift) / 2), 12)

    observed = float(difference(np.ones(len(differing))))
    if len(differing) < 2:  # swapping one unit changes the sign of the difference only
        return {"difference": observed, "p": 1.0, "units": units, "exact": True}
    found = stats.permutation_test(
        (np.ones(len(differing)),),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=repetitions,
        batch=max(1, CELLS_AT_ONCE // (2 * len(differing))),
        rng=seed,
    )
    exact = 2 ** len(differing) <= repetitions
    return {"difference": observed, "p": float(found.pvalue), "units": units, "exact": exact}


def corrected_t_test(
    differences: Sequence[float] | np.ndarray, train_sizes: Sequence[float], test_sizes: Sequence[float]
) -> dict[str, Any]:
    """Result of a t-test of differences over folds whose training sets overlap (Nadeau & Bengio 2003, equation 9).

    The variance of the mean is (1/K + n_test/n_train) s^2 with K - 1 degrees of freedom: folds that share training data
    agree more than independent experiments would.

    Args:
        differences: one per fold, (K,), or per fold and seed, (K, seeds); seeds are averaged inside their fold first,
            because another seed is no further sample of the data.
        train_sizes: utterances in each fold's training part, (K,).
        test_sizes: utterances in each fold's test part, (K,).

    Returns:
        ``mean, low, high`` (95%), ``t, df, p, folds``; with fewer than two folds, or folds that differ by exactly the
        same non-zero amount, the test is undefined and its figures are None.
    """
    values = np.asarray(differences, dtype=float)
    values = np.nanmean(values, axis=1) if values.ndim == 2 else values
    folds, mean = len(values), float(values.mean())
    result: dict[str, Any] = {"mean": mean, "low": None, "high": None, "t": None, "df": folds - 1, "p": None}
    result["folds"] = folds
    if folds < 2:
        return result
    ratio = float(np.mean(np.asarray(test_sizes, dtype=float) / np.asarray(train_sizes, dtype=float)))
    error = math.sqrt((1 / folds + ratio) * float(values.var(ddof=1)))
    if error < 1e-12:
        return result if abs(mean) > 1e-12 else result | {"low": 0.0, "high": 0.0, "t": 0.0, "p": 1.0}
    reach = float(stats.t.ppf(0.975, folds - 1)) * error
    t = mean / error
    return result | {"low": mean - reach, "high": mean + reach, "t": t, "p": float(2 * stats.t.sf(abs(t), folds - 1))}


def effect_size(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Effect sizes of ``b`` - ``a`` for paired values (folds, or speakers).

    ``d_z``: mean difference over the standard deviation of the differences; ``d_av``: over the root mean square of the
    two standard deviations (Lakens 2013); ``cliffs_delta``: fraction of pairs across the two groups with b > a minus
    the fraction with b < a. None where there is no spread to divide by.
    """
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = right - left
    several = len(left) > 1

    def over(std: float) -> float | None:
        return float(difference.mean() / std) if std > 1e-12 else None

    return {
        "d_z": over(float(difference.std(ddof=1))) if several else None,
        "d_av": over(math.sqrt((left.var(ddof=1) + right.var(ddof=1)) / 2)) if several else None,
        "cliffs_delta": float(np.sign(right[:, None] - left[None, :]).mean()),
    }


def speaker_values(a: pd.DataFrame, b: pd.DataFrame, metric: str = "uar") -> tuple[np.ndarray, np.ndarray]:
    """The metric of each speaker (S,) in two tables of the same utterances, speakers in the same order.

    Raises:
        SerError: the tables do not hold the same utterances, labels and classes.
    """
    left, right, speakers = _paired_counts(a, b)
    size, function = math.isqrt(left.shape[1]), metric_named(metric)
    sums = [pd.DataFrame(counts).groupby(speakers).sum().to_numpy() for counts in (left, right)]
    first, second = (function(counts.reshape(-1, size, size)) for counts in sums)
    return first, second


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction (1979); undefined tests (None) stay None and do not count."""
    ordered = sorted((p, index) for index, p in enumerate(p_values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p))
        adjusted[index] = running
    return adjusted


def _of_cells(metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """A metric as a function of flat confusion counts (..., C*C)."""
    function = metric_named(metric)

    def of_cells(cells: np.ndarray) -> np.ndarray:
        size = math.isqrt(cells.shape[-1])
        return function(cells.reshape(*cells.shape[:-1], size, size))

    return of_cells


def _paired_counts(a: pd.DataFrame, b: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (U, C*C) of both tables in the same order of ids, and the speakers (U,)."""
    if emotions_of(a) != emotions_of(b):
        names = [", ".join(emotions_of(table)) for table in (a, b)]
        raise SerError(
            f"the results have different classes ({names[0]} and {names[1]}); only results on the "
            "same classes in the same order can be paired."
        )
    left, right = utterance_counts(a), utterance_counts(b)
    if set(left.index) != set(right.index):
        shared = len(set(left.index) & set(right.index))
        raise SerError(
            f"the results have {len(left)} and {len(right)} utterances and share {shared}; a paired test "
            "needs the same test utterances, so compare runs of the same folds."
        )
    right = right.loc[left.index]
    labels = [table.drop_duplicates("id").set_index("id")["emotion"] for table in (a, b)]
    changed = int((labels[0].loc[left.index] != labels[1].loc[left.index]).sum())
    if changed:
        raise SerError(
            f"{changed} utterance(s) have different labels in the two results; evaluate both on the same labels."
        )
    speakers = left["speaker"].to_numpy()
    return left.drop(columns="speaker").to_numpy(), right.drop(columns="speaker").to_numpy(), speakers
