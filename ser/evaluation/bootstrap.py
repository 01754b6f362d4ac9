"""Bootstrap intervals for utterances that come from few speakers."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CELLS_AT_ONCE = 4_000_000  # 32 MB of float64: bounds the memory of a bootstrap, whatever the corpus
LEVEL = 0.95


class Bounds(NamedTuple):
    """Estimates of M figures with the bounds of their 95% intervals, each (M,); NaN where a figure is undefined."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap_bounds(
    vectors: np.ndarray,
    units: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    repetitions: int = 1000,
    seed: int = 0,
    strata: np.ndarray | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Bounds:
    """95% intervals of figures of counts, for units (speakers) that stand for all units there could be.

    Two bootstraps are drawn and the wider bound of each side is taken. One redraws whole units; its deviations from the
    estimate are stretched by ``sqrt(S / (S - 1)) t(S - 1) / z``, because with S units the resamples vary too little and
    few units do not tell how much units vary (the t-interval of S units, made with resamples; Hesterberg 2015,
    https://arxiv.org/abs/1411.5279). The other redraws the utterances inside fixed units, below which no interval can
    honestly go; it is all there is for a single unit. Redrawing utterances inside redrawn units in one go was measured
    worse: its 95% intervals cover the truth in 64 to 99% of cases, these in 94 to 99% (2 to 24 speakers).

    Args:
        vectors: counts an utterance, (U, K).
        units: the unit of each utterance, (U,).
        statistic: maps sums a unit (r, S, K), units sorted, to (r,) or (r, M).
        repetitions: resamples in each of the two bootstraps.
        seed: of the random numbers.
        strata: group of each utterance's unit, (U,); units are redrawn inside their group, so that no group vanishes.
        limits: smallest and largest possible value.
    """
    generator = np.random.default_rng(seed)
    codes, names = pd.factorize(units, sort=True)
    groups = np.zeros(len(names), dtype=int)
    if strata is not None:
        groups[codes] = pd.factorize(strata, sort=True)[0]
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, codes, vectors)  # (S, K)

    def figures(draws: Iterator[np.ndarray]) -> np.ndarray:  # (R, M)
        return np.concatenate([np.asarray(statistic(draw)).reshape(len(draw), -1) for draw in draws])

    pieces = list(_pieces(repetitions, sums.size))
    estimate = figures(iter([sums[None]]))[0]
    inside = figures(_inside(vectors, codes, pieces, generator))
    low, high = _quantiles(inside)
    fewest, freedom = min(map(len, members)), len(names) - len(members)
    if fewest > 1:
        whole = figures(sums[_redrawn(members, len(names), rows, generator)] for rows in pieces)
        tail = (1 + LEVEL) / 2
        stretch = np.sqrt(fewest / (fewest - 1)) * stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)
        outer_low, outer_high = (estimate + stretch * (bound - estimate) for bound in _quantiles(whole))
        low, high = np.fmin(low, outer_low), np.fmax(high, outer_high)
    low, high = np.minimum(low, estimate), np.maximum(high, estimate)
    return Bounds(estimate, np.clip(low, *limits), np.clip(high, *limits))


def _pieces(repetitions: int, cells: int) -> Iterator[int]:
    step = max(1, CELLS_AT_ONCE // cells)
    for start in range(0, repetitions, step):
        yield min(step, repetitions - start)


def _redrawn(members: list[np.ndarray], units: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Which unit stands at each place, (rows, S), drawn with replacement inside each group."""
    drawn = np.empty((rows, units), dtype=int)
    for places in members:
        drawn[:, places] = generator.choice(places, size=(rows, len(places)))
    return drawn


def _inside(
    vectors: np.ndarray, codes: np.ndarray, pieces: list[int], generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Sums (r, S, K) of each unit's utterances drawn with replacement; equal utterances are drawn as one count."""
    own = [np.unique(vectors[codes == unit], axis=0, return_counts=True) for unit in range(codes.max() + 1)]
    for rows in pieces:
        yield np.stack(
            [
                generator.multinomial(counts.sum(), counts / counts.sum(), size=rows) @ patterns
                for patterns, counts in own
            ],
            axis=1,
        )


def _quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (M,), (M,) of the central 95% of each column of (R, M), without resamples where it is undefined."""
    bounds = np.full((2, values.shape[1]), np.nan)
    for column, drawn in enumerate(values.T):
        known = drawn[np.isfinite(drawn)]
        if known.size:
            bounds[:, column] = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return bounds[0], bounds[1]
