"""What the probes of a sweep say: a row a variant, and whether less can be read than under the baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ser.evaluation.runs import Run
from ser.evaluation.significance import holm
from ser.evaluation.speaker_probe import PROBES, compare_probes

PERMUTATIONS = 10_000


def leakage_table(groups: Mapping[str, Sequence[Run]], baseline: str) -> pd.DataFrame:
    """Accuracies of the probes, averaged over runs, beside chance, and the paired tests against the baseline.

    Args:
        groups: the runs of each variant.
        baseline: the variant that the others are paired with.

    Returns:
        One row for each variant with probed runs: ``variant, runs, chance, majority, linear, linear_std, mlp, mlp_std``
        (accuracy in naming held-out utterances' speakers), ``adversary`` (the in-training adversary's own accuracy),
        ``gender_chance, gender_linear, gender_mlp`` (balanced accuracy on test speakers), and for variants other than
        the baseline ``paired_runs`` and, a probe, ``_difference, _p, _p_holm``; empty where nothing was probed.
    """
    probed = {name: [run for run in runs if run.leakage] for name, runs in groups.items()}
    rows = []
    for name, runs in probed.items():
        if runs:
            rows.append(_row(name, runs) | ({} if name == baseline else _paired(probed[baseline], runs)))
    for probe in PROBES:
        tested = [row for row in rows if row.get(f"{probe}_p") is not None]
        for row, p in zip(tested, holm([row[f"{probe}_p"] for row in tested]), strict=True):
            row[f"{probe}_p_holm"] = p
    return pd.DataFrame(rows)


def compare_over_runs(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``compare_probes`` over several pairs of runs, pooled.

    An utterance is judged once in every fold and seed that trains on it, and those judgements resemble each other;
    so the test flips the sign of the mean difference of whole utterances.

    Returns:
        ``runs, utterances`` and, for each probe, ``before, after, difference`` (mean over runs) and ``p``.

    Raises:
        SerError: a pair shares no utterance.
    """
    pairs = list(zip(before, after, strict=True))
    single = [compare_probes(*pair) for pair in pairs]
    result: dict[str, Any] = {"runs": len(pairs)}
    for probe in PROBES:
        changes = pd.concat([_changes(*pair, probe) for pair in pairs]).groupby(level=0).sum()
        means = {key: float(np.mean([one[probe][key] for one in single])) for key in ("before", "after", "difference")}
        result |= {"utterances": len(changes), probe: means | {"p": _sign_flip(changes.to_numpy())}}
    return result


def matched(before: Sequence[Run], after: Sequence[Run]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The speaker probes of the runs that agree in fold and seed, in the same order."""
    ours = {(run.fold, run.seed): run.leakage["speakers"] for run in after if run.leakage}
    theirs = {(run.fold, run.seed): run.leakage["speakers"] for run in before if run.leakage}
    shared = [key for key in theirs if key in ours]
    return [theirs[key] for key in shared], [ours[key] for key in shared]


def _row(variant: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = [run.leakage or {} for run in runs]
    speakers = [content["speakers"] for content in found]
    genders = [content["gender"] for content in found if content.get("gender")]
    row: dict[str, Any] = {
        "variant": variant,
        "runs": len(runs),
        "chance": _mean([one["chance"] for one in speakers]),
        "majority": _mean([one["majority"] for one in speakers]),
    }
    for probe in PROBES:
        values = [one[probe]["accuracy"] for one in speakers]
        row[probe] = _mean(values)
        row[f"{probe}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    row["adversary"] = _mean([content.get("adversary_accuracy") for content in found])
    row["gender_chance"] = _mean([one["chance"] for one in genders])
    return row | {f"gender_{probe}": _mean([one[probe]["balanced_accuracy"] for one in genders]) for probe in PROBES}


def _paired(baseline: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    before, after = matched(baseline, runs)
    if not before:
        return {}
    compared = compare_over_runs(before, after)
    return {
        "paired_runs": compared["runs"],
        **{f"{probe}_{key}": compared[probe][key] for probe in PROBES for key in ("difference", "p")},
    }


def _changes(before: dict[str, Any], after: dict[str, Any], probe: str) -> pd.Series:
    """After minus before of each utterance that both judged: -1, 0 or 1."""
    first, second = (pd.Series(one["held_out"][probe], index=one["held_out"]["id"]) for one in (before, after))
    return (second - first).dropna()


def _sign_flip(changes: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the sum of ``changes`` (n,) when each is as likely to be the other way round."""
    changes = changes[changes != 0]
    signs = np.random.default_rng(seed).integers(0, 2, (PERMUTATIONS, len(changes)), dtype=np.int8) * 2 - 1
    extreme = np.abs(signs @ changes) >= abs(changes.sum()) - 1e-9
    return float((extreme.sum() + 1) / (PERMUTATIONS + 1))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None
