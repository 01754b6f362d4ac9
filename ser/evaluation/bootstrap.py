"""Bootstrap intervals for utterances that come from few speakers."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CELLS_AT_ONCE = 4_000_000  # 32 MB of float64: bounds the memory of a bootstrap, whatever the corpus
LEVEL = 0.95
FEWEST_UNITS = 3
METHOD = (
    "95% intervals are the wider of two bootstraps: one redraws whole speakers and is widened as a t-interval, because "
    "speakers are few; the other redraws the utterances of fixed speakers"
)
TOO_FEW = f"too few speakers for an interval (fewer than {FEWEST_UNITS}, or a group of one)"


class Bounds(NamedTuple):
    """Estimates of M figures with the bounds of their 95% intervals, each (M,); NaN where something is undefined."""

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
    """95% intervals of functions of counts, for units (speakers) that are a sample of all units there could be.

    Two bootstraps are drawn and the wider bound of each side is taken. One redraws whole units; its distances from the
    estimate are multiplied by ``sqrt(S / (S - 1)) t(S - 1) / z``, because with S units the resamples vary too little
    and few units do not show how much units vary (the t-interval of S units, made with resamples; Hesterberg 2015,
    https://arxiv.org/abs/1411.5279). The other redraws the utterances inside fixed units, and is a lower limit of the
    width. Redrawing utterances inside redrawn units at once was measured to be worse: its 95% intervals cover the truth
    in 64 to 99% of cases, these in 94 to 99% (3 to 24 speakers). Bounds are NaN with fewer than ``FEWEST_UNITS`` units,
    or a group of one unit: the factor is then so large that the interval says nothing.

    Args:
        vectors: counts of each utterance, (U, K).
        units: the unit of each utterance, (U,).
        statistic: maps the sums of each unit (r, S, K), units sorted, to (r,) or (r, M).
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
    fewest, freedom = min(map(len, members)), len(names) - len(members)
    if len(names) < FEWEST_UNITS or fewest < 2:
        return Bounds(estimate, np.full(len(estimate), np.nan), np.full(len(estimate), np.nan))
    low, high = _quantiles(figures(_inside(vectors, codes, pieces, generator)))
    whole = figures(sums[_redrawn(members, len(names), rows, generator)] for rows in pieces)
    tail = (1 + LEVEL) / 2
    stretch = np.sqrt(fewest / (fewest - 1)) * stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)
    outer_low, outer_high = (estimate + stretch * (bound - estimate) for bound in _quantiles(whole))
    low, high = np.fmin(low, outer_low), np.fmax(high, outer_high)
    return Bounds(estimate, np.clip(np.minimum(low, estimate), *limits), np.clip(np.maximum(high, estimate), *limits))


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
    """Bounds (M,), (M,) of the central 95% of each column of (R, M), leaving out resamples where it is undefined."""
    bounds = np.full((2, values.shape[1]), np.nan)
    for column, drawn in enumerate(values.T):
        known = drawn[np.isfinite(drawn)]
        if known.size:
            bounds[:, column] = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return bounds[0], bounds[1]
