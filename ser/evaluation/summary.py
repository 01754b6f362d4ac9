"""The scores of every variant of a sweep with intervals, and their differences from a baseline.

Two averages have two names. ``_mean_over_runs`` averages the score of each run (folds x seeds), as the field does;
``_pooled`` computes it once over all test utterances of all folds, and the intervals belong to it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ser.errors import SerError
from ser.evaluation.comparison import paired_comparison, split_differences
from ser.evaluation.leakage import leakage_table
from ser.evaluation.runs import WARNINGS, Run, by_fold, by_variant, pooled
from ser.evaluation.scores import cross_speaker, scores
from ser.evaluation.significance import bootstrap_intervals, holm
from ser.metrics import METRICS

DEFAULT_BASELINES = ("statistics_logistic", "gru")
TESTS = ("p_speakers", "p_folds", "p_utterances")


@dataclass(frozen=True)
class Summary:
    """Results of a sweep."""

    variants: pd.DataFrame  # one row per variant, the baseline first
    comparisons: pd.DataFrame  # one row per variant and metric: difference from the baseline, intervals, tests, effects
    speakers: dict[str, dict[str, Any]]  # variant -> ``cross_speaker`` of its pooled test utterances
    baseline: str  # the variant that the others are compared with
    emotions: list[str]  # class names in order
    leakage: pd.DataFrame  # one row per variant whose features were probed for speakers, see ``leakage_table``
    notes: list[str]  # what a reader must know about these results
    command: str = ""  # that made all of these runs, as it was typed; empty where it is unknown

    def to_dict(self) -> dict[str, Any]:
        """The summary in plain types; unknown figures are None."""
        return {
            "baseline": self.baseline,
            "command": self.command,
            "emotions": self.emotions,
            "notes": self.notes,
            "variants": _records(self.variants),
            "comparisons": _records(self.comparisons),
            "leakage": _records(self.leakage),
            "speakers": self.speakers,
        }


def summarize(runs: Sequence[Run], baseline: str | None = None, left_out: Sequence[str] = ()) -> Summary:
    """The summary of the finished runs of a sweep.

    The baseline is given with or without its overrides; by default it is the first of ``DEFAULT_BASELINES`` that there
    is, else the first variant. ``left_out`` says why damaged runs are not here, one message each, for the notes.

    Raises:
        SerError: no runs, an unknown baseline, or runs of different class sets.
    """
    if not runs:
        raise SerError("there are no finished runs to summarize; train first, or give the folder that holds the runs.")
    emotions = runs[0].emotions
    for run in runs:
        if run.emotions != emotions:
            raise SerError(
                f"{runs[0].folder} has the classes {', '.join(emotions)} and {run.folder} has "
                f"{', '.join(run.emotions)}; summarize runs of one class set only."
            )
    groups = by_variant(runs)
    baseline = _baseline(list(groups), baseline)
    groups = {baseline: groups.pop(baseline), **groups}  # the baseline leads every table
    speakers = {variant: cross_speaker(pooled(group)) for variant, group in groups.items()}
    rows = [_variant_row(variant, group, emotions, speakers[variant]) for variant, group in groups.items()]
    comparisons, notes = _comparisons(groups, baseline)
    leakage = leakage_table(groups, baseline)
    if left_out:
        notes = [f"{len(left_out)} damaged run(s) left out: {' '.join(left_out)}", *notes]
    return Summary(pd.DataFrame(rows), comparisons, speakers, baseline, emotions, leakage, _notes(groups) + notes)


def _baseline(variants: Sequence[str], wanted: str | None) -> str:
    names = DEFAULT_BASELINES if wanted is None else (wanted,)
    found = [variant for name in names for variant in variants if variant == name]
    found += [variant for name in names for variant in variants if variant.startswith(f"{name},")]
    if wanted is not None and not found:
        raise SerError(f"there is no variant {wanted!r} to compare with; choose one of {', '.join(variants)}.")
    return [*found, *variants][0]


def _variant_row(
    variant: str, runs: Sequence[Run], emotions: Sequence[str], speakers: dict[str, Any]
) -> dict[str, Any]:
    table, folds = pooled(runs), by_fold(runs)
    splits = {fold: sorted({run.hash for run in members}) for fold, members in folds.items()}
    row: dict[str, Any] = {
        "variant": variant,
        "runs": len(runs),
        "folds": len(folds),
        "seeds": len({run.seed for run in runs}),
        "utterances": int(table["id"].nunique()),
        "speakers": int(table["speaker"].nunique()),
        "corpus": _joined(runs, "corpus"),
        "features": _joined(runs, "features"),
        "protocol": _joined(runs, "protocol"),
        **{key: any(getattr(run, key) for run in runs) for key in WARNINGS},
        "splits": hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:16],  # equal for the same splits only
    }
    overall = scores(table)
    for metric, interval in bootstrap_intervals(table).items():
        row |= _over_runs(metric, runs)
        row |= {
            f"{metric}_pooled": overall[metric],
            f"{metric}_pooled_low": interval.low,
            f"{metric}_pooled_high": interval.high,
        }
    for emotion in emotions:
        recalls = np.array([run.test["recall"][emotion] for run in runs], dtype=float)
        known = recalls[np.isfinite(recalls)]
        row |= {
            f"recall_{emotion}_mean_over_runs": float(known.mean()) if known.size else None,
            f"recall_{emotion}_std_over_runs": _std(known),
            f"recall_{emotion}_pooled": overall["recall"][emotion],
        }
    row["validation_uar_mean_over_runs"] = _mean([run.metrics.get("validation", {}).get("uar") for run in runs])
    choices = [choice[3] if (choice := test_choice(run)) else None for run in runs]
    row["uar_mean_over_runs_if_epoch_were_chosen_on_test"] = _mean(choices)
    return row | {f"speaker_{key}": speakers[key] for key in ("average_f1", "performance_std", "f1_range")}


def _over_runs(metric: str, runs: Sequence[Run]) -> dict[str, float | None]:
    """Mean over runs; std over runs, over folds (seeds averaged) and over seeds (folds averaged)."""
    index = pd.MultiIndex.from_tuples([(run.fold, run.seed) for run in runs], names=["fold", "seed"])
    values = pd.Series([run.test[metric] for run in runs], index)
    return {
        f"{metric}_mean_over_runs": float(values.mean()),
        f"{metric}_std_over_runs": _std(values.to_numpy()),
        f"{metric}_std_over_folds": _std(values.groupby("fold").mean().to_numpy()),
        f"{metric}_std_over_seeds": _std(values.groupby("seed").mean().to_numpy()),
    }


def _comparisons(groups: dict[str, list[Run]], baseline: str) -> tuple[pd.DataFrame, list[str]]:
    """Each variant against the baseline on the folds that both have; Holm's correction per metric and test."""
    rows: list[dict[str, Any]] = []
    notes = []
    for variant, runs in groups.items():
        if variant == baseline:
            continue
        shared = {run.fold for run in runs} & {run.fold for run in groups[baseline]}
        ours, theirs = ([run for run in group if run.fold in shared] for group in (runs, groups[baseline]))
        differences = split_differences(theirs, ours) if shared else ["no fold in common"]
        if differences:
            notes.append(f"{variant} is not compared with {baseline}: {'; '.join(differences)}.")
            continue
        left_out = sorted({run.fold for run in [*runs, *groups[baseline]]} - shared)
        if left_out:
            notes.append(
                f"{variant} is compared with {baseline} on the folds that both have; without fold(s) "
                f"{', '.join(map(str, left_out))}."
            )
        paired = paired_comparison(theirs, ours)
        sizes = {"folds": len(paired["folds"])} | {key: paired[key] for key in ("utterances", "speakers")}
        for metric, figures in paired["metrics"].items():
            rows.append({"variant": variant, "baseline": baseline, "metric": metric, **sizes, **figures})
    for metric in METRICS:
        part = [row for row in rows if row["metric"] == metric]
        for test in TESTS:
            for row, p in zip(part, holm([row[test] for row in part]), strict=True):
                row[f"{test}_holm"] = p
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["variant", "baseline", "metric"]), notes


def _notes(groups: dict[str, list[Run]]) -> list[str]:
    notes = []
    for variant, runs in groups.items():
        notes += [f"{variant}: {text}." for key, text in WARNINGS.items() if any(getattr(run, key) for run in runs)]
        cells = {(run.fold, run.seed) for run in runs}
        expected = len({fold for fold, _ in cells}) * len({seed for _, seed in cells})
        folds = max((run.split.get("folds") or 0) for run in runs)
        if len(cells) < expected:
            notes.append(f"{variant}: {expected - len(cells)} of {expected} combinations of fold and seed are missing.")
        tested = len({run.fold for run in runs})
        if tested < folds:
            notes.append(f"{variant}: {tested} of {folds} folds, so not all of the corpus is tested.")
    return notes


def test_choice(run: Run) -> tuple[int, float, int, float] | None:
    """Epoch that was kept with its test UAR, and the epoch with the best test UAR with that UAR.

    None where the history has no test scores. The second UAR is what choosing the epoch on the test part would have
    claimed; it must never be quoted as a result.
    """
    history = run.history
    if history is None or "test/uar" not in history or history["test/uar"].isna().all():
        return None
    history = history.drop_duplicates("epoch", keep="last").dropna(subset=["test/uar"])
    by_epoch = dict(zip(history["epoch"].astype(int), history["test/uar"].astype(float), strict=True))
    chosen, best = run.metrics.get("best_epoch"), max(by_epoch, key=by_epoch.__getitem__)
    return (chosen, by_epoch[chosen], best, by_epoch[best]) if chosen in by_epoch else None


def _joined(runs: Sequence[Run], key: str) -> str:
    return ", ".join(sorted({str(run.metrics.get(key) or run.split.get(key) or "") for run in runs}))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _std(values: np.ndarray) -> float | None:
    """Sample standard deviation; None of fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows in plain Python types, NaN as None."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows
