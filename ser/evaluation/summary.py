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

from ser.config import variant_name
from ser.errors import SerError
from ser.evaluation.comparison import paired_comparison, split_differences
from ser.evaluation.leakage import leakage_table
from ser.evaluation.report.cells import short_names
from ser.evaluation.runs import Run, by_fold, by_variant, declared, pooled, warnings_in
from ser.evaluation.scores import cross_speaker, scores
from ser.evaluation.significance import bootstrap_interval, bootstrap_intervals, holm
from ser.evaluation.training_noise import ONE_SEED, lacks_seeds
from ser.io import plain_rows

DEFAULT_BASELINES = ("statistics_logistic", "gru")
TESTS = ("p_speakers", "p_training", "p_folds", "p_utterances")
IN_CORPUS = "uar_pooled_in_"  # begins the columns of the UAR in each of several corpora


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
            key: plain_rows(value) if isinstance(value, pd.DataFrame) else value for key, value in vars(self).items()
        }


def summarize(runs: Sequence[Run], baseline: str | None = None, left_out: Sequence[str] = ()) -> Summary:
    """The summary of the finished runs of a sweep.

    The baseline is given with or without its overrides; by default it is the first of ``DEFAULT_BASELINES`` that there
    is, else the first variant. ``left_out`` says why damaged runs are not here, one message each, for the notes.

    Raises:
        SerError: an unknown baseline, or runs of different class sets.
    """
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
    rows = [_variant_row(variant, group, speakers[variant]) for variant, group in groups.items()]
    comparisons, notes = _comparisons(groups, baseline)
    leakage = leakage_table(groups, baseline)
    if left_out:
        notes = [f"{len(left_out)} damaged run(s) left out: {' '.join(left_out)}", *notes]
    return Summary(pd.DataFrame(rows), comparisons, speakers, baseline, emotions, leakage, _notes(groups) + notes)


def _baseline(variants: Sequence[str], wanted: str | None) -> str:
    # A baseline may be given as an experiment's name, such as ladder/global.
    names = DEFAULT_BASELINES if wanted is None else (variant_name(str(wanted), None, None),)
    found = [variant for name in names for variant in variants if variant == name]
    found += [variant for name in names for variant in variants if variant.startswith(f"{name},")]
    if wanted is not None and not found:
        raise SerError(f"there is no variant {wanted!r} to compare with; choose one of {'; '.join(variants)}.")
    return [*found, *variants][0]


def _variant_row(variant: str, runs: Sequence[Run], speakers: dict[str, Any]) -> dict[str, Any]:
    """Scores of a variant: over runs the mean and std, over folds the std with seeds averaged, over seeds likewise."""
    table, overall = pooled(runs), scores(pooled(runs))
    splits = {fold: sorted({run.hash for run in members}) for fold, members in by_fold(runs).items()}
    row: dict[str, Any] = {
        "variant": variant,
        "runs": len(runs),
        "folds": len(splits),
        "seeds": len({run.seed for run in runs}),
        "deterministic": all(run.deterministic for run in runs),
        "utterances": int(table["id"].nunique()),
        "speakers": int(table["speaker"].nunique()),
        "corpus": _joined(runs, "corpus"),
        "features": _joined(runs, "features"),
        "protocol": _joined(runs, "protocol"),
        **declared(runs),
        "splits": hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:16],  # equal for the same splits only
    }
    each = pd.json_normalize([run.test for run in runs], max_level=1)  # a row per run: uar, recall.happy and so on
    folds, seeds = [run.fold for run in runs], [run.seed for run in runs]
    for metric, interval in bootstrap_intervals(table).items():
        values = each[metric]
        row |= {
            f"{metric}_mean_over_runs": values.mean(),
            f"{metric}_std_over_runs": values.std(),
            f"{metric}_std_over_folds": values.groupby(folds).mean().std(),
            f"{metric}_std_over_seeds": values.groupby(seeds).mean().std(),
            f"{metric}_pooled": overall[metric],
            f"{metric}_pooled_low": interval.low,
            f"{metric}_pooled_high": interval.high,
        }
    for corpus, part in table.groupby("corpus") if "corpus" in table and table["corpus"].nunique() > 1 else ():
        interval, key = bootstrap_interval(part), f"{IN_CORPUS}{corpus}"
        row |= {key: interval.estimate, f"{key}_low": interval.low, f"{key}_high": interval.high}
    for emotion, recall in overall["recall"].items():
        values = each[f"recall.{emotion}"].astype(float)
        row[f"recall_{emotion}_mean_over_runs"], row[f"recall_{emotion}_std_over_runs"] = values.mean(), values.std()
        row[f"recall_{emotion}_pooled"] = recall
    row["validation_uar_mean_over_runs"] = _mean([run.metrics.get("validation", {}).get("uar") for run in runs])
    choices = [choice[3] if (choice := test_choice(run)) else None for run in runs]
    row["uar_mean_over_runs_if_epoch_were_chosen_on_test"] = _mean(choices)
    return row | {f"speaker_{key}": speakers[key] for key in ("average_f1", "performance_std", "f1_range")}


def _comparisons(groups: dict[str, list[Run]], baseline: str) -> tuple[pd.DataFrame, list[str]]:
    """Each variant against the baseline on the folds that both have; Holm's correction per metric and test."""
    rows: list[dict[str, Any]] = []
    notes, (names, _) = [], short_names(list(groups))
    if len(groups) > 1 and (single := [names[variant] for variant, runs in groups.items() if lacks_seeds(runs)]):
        notes.append(f"{'; '.join(single)}: {ONE_SEED}.")
    for variant, runs in groups.items():
        if variant == baseline:
            continue
        shared = {run.fold for run in runs} & {run.fold for run in groups[baseline]}
        ours, theirs = ([run for run in group if run.fold in shared] for group in (runs, groups[baseline]))
        differences = split_differences(theirs, ours) if shared else ["no fold in common"]
        if differences:
            notes.append(f"{names[variant]} is not compared with {names[baseline]}: {'; '.join(differences)}.")
            continue
        left_out = sorted({run.fold for run in [*runs, *groups[baseline]]} - shared)
        if left_out:
            notes.append(
                f"{names[variant]} is compared with {names[baseline]} on the folds that both have; without fold(s) "
                f"{', '.join(map(str, left_out))}."
            )
        paired = paired_comparison(theirs, ours)
        sizes = {"folds": len(paired["folds"])} | {key: paired[key] for key in ("utterances", "speakers")}
        for metric, figures in paired["metrics"].items():
            rows.append({"variant": variant, "baseline": baseline, "metric": metric, **sizes, **figures})
    table = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["variant", "baseline", "metric"])
    for test in TESTS if rows else ():
        for places in table.groupby("metric").groups.values():
            table.loc[places, f"{test}_holm"] = np.array(holm(table.loc[places, test].tolist()), dtype=float)
    return table, notes


def _notes(groups: dict[str, list[Run]]) -> list[str]:
    found: dict[str, list[str]] = {}  # the variants of which something is to be said
    names, _ = short_names(list(groups))
    for name, runs in groups.items():
        texts = list(warnings_in(declared(runs)))
        cells = {(run.fold, run.seed) for run in runs}
        expected = len({fold for fold, _ in cells}) * len({seed for _, seed in cells})
        folds = max((run.split.get("folds") or 0) for run in runs)
        if len(cells) < expected:
            texts.append(f"{expected - len(cells)} of {expected} combinations of fold and seed are missing")
        tested = len({run.fold for run in runs})
        if tested < folds:
            texts.append(f"{tested} of {folds} folds, so not all of the corpus is tested")
        for text in texts:
            found.setdefault(text, []).append(names[name])
    return [f"{'; '.join(variants)}: {text}." for text, variants in found.items()]


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


def _mean(values: Sequence[float | None]) -> float:
    """NaN where one is unknown."""
    return float(np.array(values, dtype=float).mean())
