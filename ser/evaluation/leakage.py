"""The speaker leakage of runs: ``leakage.json`` of one, the table of several variants, and the test between two."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

from ser.errors import SerError, first_line
from ser.evaluation.predictions import COLUMNS as LABELS
from ser.evaluation.predictions import probabilities, read_embeddings, read_history, read_predictions
from ser.evaluation.runs import Run
from ser.evaluation.significance import holm
from ser.evaluation.speaker_features import as_unseen_speakers, refit_of
from ser.evaluation.speaker_probe import name_speakers, tell_gender
from ser.evaluation.speaker_verification import verify_speakers
from ser.io import write_json

FORMAT = 2
Of = Literal["features", "probabilities", "emotion"]  # what of a network's output a probe sees
_SMALLEST = 1e-6  # probability, before the logarithm
COLUMNS = {  # of every table that shows leakage: key in ``figures``, title, explanation
    "speaker": (
        "speaker named",
        "training speakers, by the strongest probe (one knows the emotion), of utterances new to it and to an erasure",
    ),
    "speaker_control": ("control", "the same with speakers permuted within each emotion"),
    "chance": ("chance", "one of the training speakers at random"),
    "adversary": ("adversary", "accuracy of the speaker head in training; low is no proof"),
    "eer": ("EER", "equal error rate in linking an unseen speaker's utterances; 50 = no leak"),
    "gender": ("gender", "of unseen speakers, balanced accuracy; 50 = no leak"),
    "gender_control": ("gender control", "the same with genders permuted within each emotion"),
}


@threadpool_limits.wrap(limits=1)  # of small probes, threads wait for each other: tenfold on a busy machine
def write_leakage(folder: Path, best_epoch: int | None = None, seed: int = 0, of: Of = "features") -> dict[str, Any]:
    """Measure the speaker leakage of a run from its tables and features, and write ``leakage.json``.

    It is that of the pooled features, or of the predictions: their ``probabilities``, or the most probable ``emotion``
    alone, written to ``leakage_probabilities.json`` and ``leakage_emotion.json``.

    A removal that was fitted to the training part is fitted again without the utterances that a probe is judged on
    (closed set), or without the speakers that a probe learns from (unseen speakers).

    Returns:
        What was written: ``format``, ``speakers`` (``name_speakers``), ``open_set`` (``verify_speakers``), ``gender``
        (``tell_gender``) and ``adversary_accuracy``: of the speaker head in training, at the epoch whose weights were
        kept.

    Raises:
        SerError: a table or the features are missing or damaged, or there are too few speakers.
    """
    if not (folder / "train_predictions.csv").is_file():
        raise SerError(
            f"{folder} has no train_predictions.csv, which the probe learns from (ser evaluate writes none), expected "
            "the folder of a run; give that."
        )
    files = (folder / "train_predictions.csv", folder / "predictions.csv")
    train, test = (read_predictions(file) for file in files)
    if of == "features":
        train_features = read_embeddings(folder / "train_embeddings.npy", len(train))
        test_features = read_embeddings(folder / "embeddings.npy", len(test))
    else:
        train_features, test_features = (answers(probabilities(table), of) for table in (train, test))
    train, test = train[list(LABELS)], test[list(LABELS)]  # no probabilities: they are large
    refit, as_unseen = None, train_features
    if (folder / "train_statistics.npy").is_file():
        refit = refit_of(folder, train, None if of == "features" else partial(answers, of=of))
        as_unseen = as_unseen_speakers(refit, train)
    adversary = None
    history = read_history(folder / "history.csv") if (folder / "history.csv").is_file() else None
    if history is not None and "train/speaker_accuracy" in history:
        chosen = history.loc[history["epoch"] == best_epoch, "train/speaker_accuracy"].dropna()
        adversary = float(chosen.iloc[0]) if len(chosen) else None
    leakage = {
        "format": FORMAT,
        "speakers": name_speakers(train_features, train, seed, refit),
        "open_set": verify_speakers(as_unseen, train, test_features, test),
        "gender": tell_gender(as_unseen, train, test_features, test, seed),
        "adversary_accuracy": adversary,
    }
    write_json(folder / ("leakage.json" if of == "features" else f"leakage_{of}.json"), leakage)
    return leakage


def answers(said: np.ndarray, of: Of) -> np.ndarray:
    """What a probe sees of probabilities (n, C): their logarithms, centred, or a 1 for the largest (n, C)."""
    if of == "emotion":
        return np.eye(said.shape[1])[said.argmax(axis=1)]
    logs = np.log(np.maximum(said, _SMALLEST))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def leakage_of(run: Run) -> dict[str, Any] | None:
    """The content of a run's ``leakage.json``; None where it was not measured.

    Raises:
        SerError: the file is damaged or of another format.
    """
    leakage = run.leakage
    if leakage is None:
        return None
    path, again = run.folder / "leakage.json", f"measure again with ser probe {run.folder}."
    if leakage.get("format") != FORMAT:
        raise SerError(f"{path} has format {leakage.get('format', 1)}, expected {FORMAT}; {again}")
    if missing := {"speakers", "open_set", "gender", "adversary_accuracy"} - leakage.keys():
        raise SerError(f"{path} has no {', '.join(sorted(missing))}; {again}")
    try:
        _ = figures(leakage), leakage["speakers"]["probe"]
    except (KeyError, TypeError, AttributeError) as error:
        raise SerError(f"{path} is incomplete ({first_line(error)}); {again}") from error
    return leakage


def figures(leakage: Mapping[str, Any]) -> dict[str, float | None]:
    """The value of each entry of ``COLUMNS`` for one run, as fractions; None where it was not measured."""
    speakers, open_set, gender = leakage["speakers"], leakage["open_set"] or {}, leakage["gender"] or {}
    return {
        "speaker": speakers["accuracy"],
        "speaker_control": speakers["control"]["accuracy"],
        "chance": speakers["chance"],
        "eer": open_set.get("eer"),
        "gender": gender.get("accuracy"),
        "gender_control": gender["control"]["accuracy"] if gender else None,
        "adversary": leakage["adversary_accuracy"],
    }


def leakage_table(groups: Mapping[str, Sequence[Run]], baseline: str) -> pd.DataFrame:
    """Leakage of each variant, averaged over its runs, and the paired test against the baseline.

    Returns:
        One row per variant with measured runs: ``variant, runs``, the entries of ``COLUMNS`` (mean over runs),
        ``speaker_low, speaker_high, eer_low, eer_high`` (95%: Student's t over folds, each the mean of its seeds; one
        run has its own interval), ``faults`` (runs whose closed-set figure is below its control) and, for variants
        other than the baseline, ``speaker_difference, speaker_p, speaker_p_holm``; empty where nothing was measured.

    Raises:
        SerError: a ``leakage.json`` is damaged or of another format.
    """
    rows = []
    for name, runs in groups.items():
        if not (contents := _measured(runs)):
            continue
        found, folds = list(contents.values()), [fold for fold, _ in contents]
        row: dict[str, Any] = {"variant": name, "runs": len(found)}
        each = pd.DataFrame([figures(one) for one in found], dtype=float)
        row |= {str(key): value for key, value in each.mean().items()}
        for key, part in (("speaker", "speakers"), ("eer", "open_set")):
            row[f"{key}_low"], row[f"{key}_high"] = _interval(each[key], folds, [one[part] or {} for one in found])
        row["faults"] = sum(one["speakers"]["verdict"] == "below" for one in found)
        before, after = matched(groups[baseline], runs)
        if before and name != baseline:
            compared = compare_over_runs(before, after)
            row |= {"speaker_difference": compared["difference"], "speaker_p": compared["p"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    if "speaker_p" in table:
        table["speaker_p_holm"] = holm(table["speaker_p"].tolist())
    return table


def matched(before: Sequence[Run], after: Sequence[Run]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Closed-set results of the runs that agree in fold and seed, in the same order.

    A deterministic run is paired with every seed of the others.
    """
    (theirs, any_before), (ours, any_after) = map(_by_seed, (before, after))
    shared = [(a, b) for a in theirs for b in ours if a[0] == b[0] and (any_before or any_after or a[1] == b[1])]
    return [theirs[a]["speakers"] for a, _ in shared], [ours[b]["speakers"] for _, b in shared]


def _by_seed(runs: Sequence[Run]) -> tuple[dict[tuple[int, int], dict[str, Any]], bool]:
    """Leakage by fold and seed, with one seed per fold of deterministic runs, and whether they are."""
    same = all(run.deterministic for run in runs)
    return _measured(list({run.fold: run for run in reversed(runs)}.values()) if same else runs), same


def compare_over_runs(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether fewer utterances are named after a change (adversarial training, say), paired by speaker over all runs.

    It takes the results of ``name_speakers`` of runs of the same folds and seeds, in the same order. The test flips
    the sign of whole speakers' mean change: utterances of one speaker, and one utterance in several folds and seeds,
    are alike. Six speakers are needed to reach p < .05.

    Returns:
        ``runs, speakers, before, after, difference`` (accuracy on the utterances that both judged) and ``p``.

    Raises:
        SerError: a pair shares no utterance.
    """
    pairs = []
    for pair in zip(before, after, strict=True):
        first, second = (pd.DataFrame(one["held_out"]).set_index("id") for one in pair)
        both = first.join(second["right"], how="inner", rsuffix="_after")
        if both.empty:
            raise SerError("the two speaker probes share no utterance; compare probes of runs of the same fold.")
        pairs.append(both)
    rows = pd.concat(pairs)
    changes = (rows["right_after"] - rows["right"]).groupby(rows["speaker"]).mean()
    means = rows[["right", "right_after"]].mean()
    test = stats.permutation_test((changes.to_numpy(),), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
    return {
        "runs": len(pairs),
        "speakers": len(changes),
        "before": float(means["right"]),
        "after": float(means["right_after"]),
        "difference": float(means["right_after"] - means["right"]),
        "p": float(test.pvalue),
    }


def _measured(runs: Sequence[Run]) -> dict[tuple[int, int], dict[str, Any]]:
    """Leakage by fold and seed, of the runs where it was measured."""
    return {(run.fold, run.seed): found for run in runs if (found := leakage_of(run)) is not None}


def _interval(
    values: pd.Series, folds: list[int], parts: Sequence[Mapping[str, Any]]
) -> tuple[float | None, float | None]:
    """95% interval of the mean of ``values`` over folds, or the own interval of a single run.

    Seeds of one fold have the same speakers, so they are no further observations.
    """
    if len(values) == 1:
        return parts[0].get("low"), parts[0].get("high")
    known = values.groupby(folds).mean().dropna()
    if len(known) < 2:
        return None, None
    reach = float(stats.t.ppf(0.975, len(known) - 1) * known.std() / np.sqrt(len(known)))
    return max(0.0, float(known.mean()) - reach), min(1.0, float(known.mean()) + reach)
