"""Differences between two results of the same split, with intervals and paired tests."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ser.errors import SerError
from ser.evaluation.predictions import PREFIX
from ser.evaluation.runs import Run, by_fold, declared, find_runs, pooled
from ser.evaluation.scores import scores
from ser.evaluation.significance import corrected_t_test, difference_intervals, effect_size, permutation_tests
from ser.evaluation.training_noise import lacks_seeds, noise_tests, training_noise, widened
from ser.metrics import METRICS

SETTINGS = {
    "corpus": "corpus",
    "corpus_fingerprint": "labels or utterances of the corpus",
    "emotions": "classes",
    "protocol": "protocol",
    "folds": "number of folds",
}


def compare(a: str | Path, b: str | Path, allow_different_splits: bool = False) -> dict[str, Any]:
    """Compare two runs, two folders of runs of one variant each, or two prediction tables (``b`` minus ``a``).

    Where the splits differ and that is allowed, tests use the utterances that both have with the same label, and are
    left out where there are none.

    Returns:
        Ready for JSON: ``a`` and ``b`` (variant, runs, labels, scores), ``same_split``, ``differences`` (phrases),
        ``speakers`` (a phrase where the two name them differently) and ``paired`` (``paired_comparison``) or None.

    Raises:
        SerError: the splits differ and that was not allowed, the classes differ, or a folder holds several variants.
    """
    left, right = runs_of_one_variant(a), runs_of_one_variant(b)
    if set(left[0].emotions) != set(right[0].emotions):
        raise SerError(
            f"{a} has the classes {', '.join(left[0].emotions)} and {b} has {', '.join(right[0].emotions)}; "
            "only results on the same classes can be compared, so train both on one set."
        )
    differences = split_differences(left, right)
    if differences and not allow_different_splits:
        raise SerError(
            f"{a} and {b} were not tested on the same split: {'; '.join(differences)}; give two results of "
            "one split, or add --allow-different-splits to set them side by side."
        )
    tables = pooled(left), pooled(right)
    if differences:
        tables = _shared(*tables)
    classes = [f"{PREFIX}{name}" for name in left[0].emotions]  # both in one order
    tables = tables[0], tables[1][[*tables[1].columns.difference(classes, sort=False), *classes]]
    return {
        "a": _side(left, a),
        "b": _side(right, b),
        "same_split": not differences,
        "differences": differences,
        "speakers": _speakers(*tables),
        "paired": paired_comparison(left, right, tables) if len(tables[0]) else None,
    }


def paired_comparison(
    a: Sequence[Run], b: Sequence[Run], tables: tuple[pd.DataFrame, pd.DataFrame] | None = None
) -> dict[str, Any]:
    """Differences ``b`` minus ``a`` on the same utterances, with intervals, tests and effect sizes per metric.

    Both are runs of one variant on the same folds. ``tables`` are the pooled ones to pair, where they do not have all
    of the runs' utterances.

    Returns:
        ``utterances, speakers, folds``, ``lack_seeds`` (which of a and b have one seed, so that the interval lacks
        their training noise) and ``metrics``: for each metric ``difference, low, high`` (pooled, 95% over speakers and
        seeds), ``p_speakers`` and ``p_utterances`` (permutation), ``p_training`` with the standard error
        ``se_training`` (see ``training_noise``), ``fold_difference, fold_low, fold_high, p_folds`` (corrected t-test
        over folds, seeds averaged) and ``d_z`` over folds; what needs more folds, speakers or seeds than there are is
        None.
    """
    left, right = tables or (pooled(a), pooled(b))
    over_folds = [_fold_scores(runs) for runs in (a, b)]
    folds = over_folds[0].index.intersection(over_folds[1].index)
    parts = [runs[0].split["parts"] for fold, runs in by_fold(a).items() if fold in folds]
    sizes = [[part.get(name, {}).get("utterances", 0) for part in parts] for name in ("train", "test")]
    testable = len(folds) > 1 and all(sizes[0])
    tests = {by: permutation_tests(left, right, by=by) for by in ("speaker", "utterance")}
    noise = training_noise(a, b, left["id"].unique())
    intervals = widened(difference_intervals(left, right), noise)
    trained = noise_tests([interval.estimate for interval in intervals.values()], noise)
    metrics = {}
    for (metric, interval), by_training in zip(intervals.items(), trained, strict=True):
        means = [scored.loc[folds, metric].to_numpy() for scored in over_folds]
        tested = corrected_t_test(means[1] - means[0], *sizes) if testable else {}
        known = not math.isnan(interval.low)
        metrics[metric] = {
            "difference": interval.estimate,
            "low": interval.low if known else None,
            "high": interval.high if known else None,
            "p_speakers": tests["speaker"][metric],
            **by_training,
            "fold_difference": tested.get("mean"),
            "fold_low": tested.get("low"),
            "fold_high": tested.get("high"),
            "p_folds": tested.get("p"),
            "p_utterances": tests["utterance"][metric],
            "d_z": effect_size(*means),
        }
    counts = {"utterances": int(left["id"].nunique()), "speakers": int(left["speaker"].nunique())}
    single = [name for name, runs in (("a", a), ("b", b)) if lacks_seeds(runs)]
    return {**counts, "folds": folds.tolist(), "lack_seeds": single, "metrics": metrics}


def _fold_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores of each fold, a column per metric, seeds averaged."""
    return pd.DataFrame([run.test for run in runs], [run.fold for run in runs])[list(METRICS)].groupby(level=0).mean()


def split_differences(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """What differs between the splits of two results, one phrase each; empty where both have the same splits.

    Folds are matched by number; inside a fold both must have the same split hashes. For tables of other tools only the
    test part is known, so only that is compared.
    """
    folds_a, folds_b = by_fold(a), by_fold(b)
    if folds_a.keys() != folds_b.keys():
        numbers = [", ".join(map(str, folds)) for folds in (folds_a, folds_b)]
        return [*_settings(a[0], b[0]), f"folds {numbers[0]} against {numbers[1]}"]
    found: list[str] = []
    inside: dict[str, list[int]] = {}  # folds in which the same is different
    for fold, runs in folds_a.items():
        hashes = {run.hash for run in runs}, {run.hash for run in folds_b[fold]}
        if hashes[0] == hashes[1]:
            continue
        one = next((run for run in runs if run.hash not in hashes[1]), runs[0])
        other = next((run for run in folds_b[fold] if run.hash not in hashes[0]), folds_b[fold][0])
        found += _settings(one, other)
        for phrase in _parts(one, other):
            inside.setdefault(phrase, []).append(fold)
    return list(dict.fromkeys(found)) + [f"fold {', '.join(map(str, at))} {phrase}" for phrase, at in inside.items()]


def _settings(one: Run, other: Run) -> list[str]:
    phrases = []
    for key, name in SETTINGS.items():
        first, second = one.split.get(key), other.split.get(key)
        if first is None or second is None:
            continue
        if key == "emotions":
            first, second = sorted(first), sorted(second)  # in another order they are the same classes
        if first != second:
            phrases.append(f"{name} {first} against {second}")
    return phrases


def _parts(one: Run, other: Run) -> list[str]:
    phrases = []
    for name in ("train", "validation", "test"):
        first, second = (run.split["parts"].get(name) for run in (one, other))
        if first is None or second is None:
            continue
        ids = set(first.get("ids", ())), set(second.get("ids", ()))
        if ids[0] != ids[1]:
            phrases.append(
                f"{name} ids ({len(ids[0] - ids[1])} only in the first, {len(ids[1] - ids[0])} only in the "
                f"second, {len(ids[0] & ids[1])} in both)"
            )
        elif None not in (first.get("hash"), second.get("hash")) and first["hash"] != second["hash"]:
            phrases.append(f"{name} labels")
        elif name == "test" and not (one.metrics and other.metrics):
            phrases += ["test labels"] if len(_shared(one.predictions, other.predictions)[0]) != len(ids[0]) else []
    return phrases


def _shared(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both tables whose id and label both have."""
    keys = [pd.MultiIndex.from_frame(table[["id", "emotion"]]) for table in (a, b)]
    return a[keys[0].isin(keys[1])].reset_index(drop=True), b[keys[1].isin(keys[0])].reset_index(drop=True)


def _speakers(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """How the speakers of the same utterances differ between two tables; empty where they do not."""
    names = a[["id", "speaker"]].drop_duplicates("id").merge(b[["id", "speaker"]].drop_duplicates("id"), on="id")
    pairs = names.drop(columns="id").drop_duplicates()  # of a speaker's names in both
    apart = pairs[pairs["speaker_x"] != pairs["speaker_y"]]
    if apart.empty:
        return ""
    one, other = apart.iloc[0]
    if len(pairs) == pairs["speaker_x"].nunique() == pairs["speaker_y"].nunique():
        return f"B names speakers differently ({one} is {other}); utterances are paired by id, speakers are those of A"
    return (
        f"A and B group utterances by other speakers ({one} is {other}, for one); utterances are paired by id, and "
        "intervals and p speakers take the speakers of A"
    )


def runs_of_one_variant(path: str | Path) -> list[Run]:
    """``find_runs``, refused where there are several variants."""
    runs = find_runs(path)
    if len(variants := sorted({run.variant for run in runs})) > 1:
        raise SerError(f"{path} holds the variants {'; '.join(variants)}; give the folder of one of them.")
    return runs


def _side(runs: Sequence[Run], path: str | Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "variant": runs[0].variant,
        "runs": len(runs),
        "folds": sorted({run.fold for run in runs}),
        "seeds": sorted({run.seed for run in runs}),
        **declared(runs),
        "pooled": scores(pooled(runs)),
    }
