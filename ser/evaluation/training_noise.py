"""How much the difference between two variants varies with their trainings, from runs that differ in the seed only."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse import csr_array

from ser.evaluation.bootstrap import LEVEL
from ser.evaluation.predictions import utterance_counts
from ser.evaluation.runs import Run
from ser.evaluation.significance import Interval, metrics_of
from ser.metrics import METRICS

ROUNDING = 1e-10  # smaller differences and standard errors are 0: one answer in a million changes a score by 1e-6
ONE_SEED = (  # after the names of variants
    "one seed, so the interval lacks the noise of training and p training is unknown; a difference may be that noise, "
    "give several (seed=1,2,3)"
)


class Noise(NamedTuple):
    """What other seeds would change in a pooled difference, as variances of M metrics, each (M,)."""

    variance: np.ndarray  # all of it
    shared: np.ndarray  # the part that the speakers of a fold share, which no bootstrap of speakers contains
    freedom: np.ndarray  # degrees of freedom; infinite where nothing varies
    known: bool  # False where a variant that is not deterministic has one seed: its part is missing here


def lacks_seeds(runs: Sequence[Run]) -> bool:
    """Whether the training noise of a variant is unknown: it is not deterministic and has one seed in every fold."""
    return len({run.fold for run in runs}) == len(runs) and not all(run.deterministic for run in runs)


def training_noise(a: Sequence[Run], b: Sequence[Run], ids: Collection[str] | None = None) -> Noise:
    """The training noise of metric(b) - metric(a), pooled over folds, on the utterances ``ids`` (all by default).

    The variance of a fold's contribution over its seeds says what one more training would change; a fold with one seed
    gets that of the others, per utterance. Seeds count as independent from fold to fold, training sets as given.

    Where both variants have the same folds and seeds, runs are paired: they may share a network (an erasure after
    training) or its first weights. A bootstrap of speakers already contains what varies from speaker to speaker inside
    a fold, so ``shared`` is the variance of whole folds less that of single speakers: nothing where a fold has one.
    """
    first, second = _changes(a, ids), _changes(b, ids)
    fixed = [all(run.deterministic for run in runs) for runs in (a, b)]
    if all(one.by_seed.index.equals(other.by_seed.index) for one, other in zip(first, second, strict=True)):
        parts = [_noise([one.less(other) for one, other in zip(second, first, strict=True)], all(fixed))]
    else:
        parts = [_noise(first, fixed[0]), _noise(second, fixed[1])]
    variance, shared = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("variance", "shared"))
    welch = np.sum([part.variance**2 / part.freedom for part in parts], axis=0)  # Welch-Satterthwaite
    freedom = np.divide(variance**2, welch, out=np.full_like(variance, np.inf), where=welch > 0)
    return Noise(variance, np.maximum(shared, 0.0), freedom, all(part.known for part in parts))


def widened(intervals: Mapping[str, Interval], noise: Noise) -> dict[str, Interval]:
    """Intervals of differences over speakers, each half widened to hold the training noise as well."""
    reach = stats.t.ppf((1 + LEVEL) / 2, noise.freedom) * np.sqrt(noise.shared)
    found = {}
    for (metric, (estimate, *bounds)), more in zip(intervals.items(), reach, strict=True):
        halves = np.hypot(np.subtract(bounds, estimate), more)  # NaN where speakers are too few
        low, high = np.clip(estimate + halves * (-1, 1), -1.0, 1.0)
        found[metric] = Interval(estimate, float(low), float(high))
    return found


def noise_tests(differences: Sequence[float], noise: Noise) -> list[dict[str, float | None]]:
    """Of each metric the standard error of training, and the two-sided p-value of a t-test of the difference by it.

    Both are None where the noise is not known. Where nothing varies, any difference has p = 0.
    """
    if not noise.known:
        return [{"se_training": None, "p_training": None}] * len(differences)
    found: list[dict[str, float | None]] = []
    for difference, error, freedom in zip(differences, np.sqrt(noise.variance), noise.freedom, strict=True):
        t = 0.0 if abs(difference) < ROUNDING else abs(difference) / error if error > 0 else np.inf
        found.append({"se_training": float(error), "p_training": float(2 * stats.t.sf(t, freedom))})
    return found


class _Changes(NamedTuple):
    """By how much every pooled metric would change, had one run stood for all runs of its fold."""

    by_seed: pd.DataFrame  # a row per fold or (fold, speaker) and seed, a column per metric
    fractions: np.ndarray  # of all utterances, that each fold or (fold, speaker) has

    def less(self, other: "_Changes") -> "_Changes":
        """These changes minus those of the same runs of another variant."""
        return self._replace(by_seed=self.by_seed - other.by_seed)


def _changes(runs: Sequence[Run], ids: Collection[str] | None) -> list[_Changes]:
    """The changes of whole folds, and of one speaker of a fold at a time."""
    own = [run.predictions if ids is None else run.predictions[run.predictions["id"].isin(ids)] for run in runs]
    rows = pd.concat([table.assign(fold=run.fold, seed=run.seed) for table, run in zip(own, runs, strict=True)])
    weights = (1 / rows.groupby("id")["id"].transform("size")).to_numpy()  # an utterance of several runs counts once
    patterns, which = utterance_counts(rows.assign(id=np.arange(len(rows)))).counts  # each row by itself
    found = []
    for group in (["fold"], ["fold", "speaker"]):
        keys = rows.groupby([*group, "seed"])
        units, index = keys.ngroup().to_numpy(), keys.size().index
        cells = csr_array((weights, (units, which)), shape=(len(index), patterns.shape[0])) @ patterns
        sums = pd.DataFrame(cells.toarray(), index)  # (units, 3 C)
        total, folds = sums.sum(), sums.groupby(group)
        instead = total - folds.transform("sum") + sums.mul(folds.transform("size"), axis=0)
        changed = metrics_of(instead.to_numpy()) - metrics_of(total.to_numpy())
        sizes = pd.Series(np.bincount(units, weights), index).groupby(group).sum()
        found.append(_Changes(pd.DataFrame(changed, index, list(METRICS)), (sizes / sizes.sum()).to_numpy()))
    return found


def _noise(changes: Sequence[_Changes], deterministic: bool) -> Noise:
    """The noise of one variant, or of pairs of runs, from the changes of folds and of single speakers."""
    nothing, folds = np.zeros(len(METRICS)), changes[0].by_seed
    freedom = len(folds) - folds.index.get_level_values("fold").nunique()
    if deterministic or not freedom:
        return Noise(nothing, nothing, nothing + np.inf, deterministic)
    variances = []
    for by_seed, fractions in changes:
        groups = by_seed.groupby(by_seed.index.names[:-1])
        runs, size = groups.size().to_numpy()[:, None], fractions[:, None]  # (units, 1)
        squares = ((by_seed - groups.transform("mean")) ** 2).groupby(by_seed.index.names[:-1]).sum().to_numpy()
        alike = size**2 * (squares / size**2).sum(axis=0) / (runs - 1).sum()  # were all units as noisy per utterance
        own = squares / np.maximum(runs - 1, 1)
        variances.append((np.where(runs > 1, own, alike) / runs).sum(axis=0))
    whole, alone = (np.where(variance > ROUNDING**2, variance, 0.0) for variance in variances)
    return Noise(whole, whole - alone, nothing + freedom, True)
