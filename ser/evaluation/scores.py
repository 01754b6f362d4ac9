"""Scores of a prediction table: over all utterances, by confidence and by speaker."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ser import metrics
from ser.evaluation.bootstrap import Bounds, Counts, bootstrap_bounds
from ser.evaluation.predictions import emotions_of, probabilities, utterance_counts
from ser.metrics import accuracy, class_counts, uar, weighted_f1

BINS = 15  # of the confidence


def scores(table: pd.DataFrame) -> dict[str, Any]:
    """WA, UAR, F1 and their values per class, ready for JSON.

    An utterance that several runs answered counts once, however many they are; ``confusion`` and ``n`` count answers.
    UAR and macro F1 are means over the classes that occur in the truth; the recall, precision and F1 of a class that
    does not occur are None. A class that occurs and is never predicted has precision 0, as in scikit-learn.
    """
    emotions = emotions_of(table)
    confusion = metrics.confusion_counts(table["emotion"].tolist(), table["predicted"].tolist(), emotions)
    counts = class_counts(confusion)
    if not table["id"].is_unique:
        units = utterance_counts(table)
        counts = units.counts.sums(np.zeros(len(units.ids), int)).toarray().reshape(3, -1)
    per_class = {"recall": metrics.recall, "precision": metrics.precision, "f1": metrics.f1}
    return {
        **{name: float(metric(counts)) for name, metric in metrics.METRICS.items()},
        **{name: dict(zip(emotions, map(_number, metric(counts)), strict=True)) for name, metric in per_class.items()},
        "confusion": confusion.tolist(),
        "n": len(table),
    }


def calibration(table: pd.DataFrame) -> dict[str, Any]:
    """How well confidence (the largest probability) agrees with accuracy.

    ``ece`` is the expected calibration error over ``BINS`` equal bins (Guo et al. 2017, equation 3). ``bins`` has a row
    per bin with ``low, high, n, confidence, accuracy``, the last two NaN where the bin is empty.
    """
    confidence = probabilities(table).max(axis=1)
    right = (table["emotion"] == table["predicted"]).to_numpy()
    edges = np.linspace(0.0, 1.0, BINS + 1)
    inside = np.digitize(confidence, edges[1:-1], right=True)
    means = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby(inside).mean()
    bins = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": np.bincount(inside, minlength=BINS)}).join(means)
    gaps = (bins["confidence"] - bins["accuracy"]).abs()
    return {
        "ece": float((bins["n"] * gaps).sum() / len(table)),
        "confidence_right": _mean(confidence[right]),
        "confidence_wrong": _mean(confidence[~right]),
        "n_right": int(right.sum()),
        "n_wrong": int((~right).sum()),
        "bins": bins,
    }


def speaker_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row per speaker, sorted: speaker, gender, session, n, accuracy, uar, weighted_f1.

    ``uar`` is over the emotions that occur for this speaker, so speakers who lack some cannot be compared by it.
    """
    rows = []
    for speaker, part in table.groupby("speaker", sort=True):
        names = sorted({*part["emotion"], *part["predicted"]})
        counts = class_counts(metrics.confusion_counts(part["emotion"].tolist(), part["predicted"].tolist(), names))
        found = [float(metric(counts)) for metric in (accuracy, uar, weighted_f1)]
        rows.append([str(speaker), part["gender"].iloc[0], part["session"].iloc[0], len(part), *found])
    return pd.DataFrame(rows, columns=["speaker", "gender", "session", "n", "accuracy", "uar", "weighted_f1"])


def cross_speaker(table: pd.DataFrame, repetitions: int | None = None) -> dict[str, Any]:
    """How much the scores differ between speakers and groups of them, with 95% intervals (see ``bootstrap_bounds``).

    ``average_f1`` is the mean of the speakers' weighted F1, ``performance_std`` its sample standard deviation over
    speakers, ``f1_range`` best minus worst speaker; ``accuracy_std`` and ``accuracy_range`` are the same for accuracy.
    Every spread includes the noise of few utterances: with few per speaker, equal speakers look unequal. ``intervals``
    lacks what is undefined or has too few speakers. All of it is ready for JSON.
    """
    per_speaker = speaker_scores(table)
    names = ("overall_accuracy", "average_f1", "performance_std", "f1_range", "accuracy_std", "accuracy_range")
    _, speakers, counts = utterance_counts(table)
    bounds = bootstrap_bounds(counts, speakers, _spread, of_unit=_of_speaker, repetitions=repetitions)
    result: dict[str, Any] = {"speakers": len(per_speaker), "n": len(table)}
    result |= {name: _number(value) for name, value in zip(names, bounds.estimate, strict=True)}
    result["intervals"] = {
        name: [float(low), float(high)]
        for name, value, low, high in zip(names, *bounds, strict=True)
        if math.isfinite(value) and math.isfinite(low)
    }
    by_f1 = per_speaker.sort_values("weighted_f1")
    result["worst_speaker"], result["best_speaker"] = by_f1["speaker"].iloc[0], by_f1["speaker"].iloc[-1]
    result["gender_gap"] = _gap(table, "gender", repetitions)
    result["session_gap"] = _gap(table, "session", repetitions)
    if "corpus" in table:
        result["corpus_gap"] = _gap(table, "corpus", repetitions)
    result["per_speaker"] = per_speaker.to_dict("records")
    return result


def _of_speaker(sums: np.ndarray) -> np.ndarray:
    """Right answers, utterances and weighted F1 (..., 3) from counts (..., 3 C)."""
    counts = _by_class(sums)
    truth, _, right = np.moveaxis(counts.sum(axis=-1), -1, 0)
    return np.stack([right, truth, weighted_f1(counts)], axis=-1)


def _spread(speakers: np.ndarray) -> np.ndarray:
    """The six figures of ``cross_speaker`` (r, 6) from those of each speaker (r, S, 3)."""
    right, utterances, f1 = np.moveaxis(speakers, -1, 0)  # (r, S)
    columns = [right.sum(axis=1) / utterances.sum(axis=1), f1.mean(axis=1)]
    for values in (f1, right / utterances):
        spreads = [values.std(axis=1, ddof=1), np.ptp(values, axis=1)] if values.shape[1] > 1 else [np.nan] * 2
        columns += [np.broadcast_to(spread, len(values)) for spread in spreads]
    return np.stack(columns, axis=1)


def _by_class(sums: np.ndarray) -> np.ndarray:
    """Counts (..., 3, C) from flat ones."""
    return sums.reshape(*sums.shape[:-1], 3, -1)


def _gap(table: pd.DataFrame, column: str, repetitions: int | None) -> dict[str, Any] | None:
    """Accuracy of the best group minus that of the worst; the interval redraws speakers inside these two groups.

    Utterances without a group (an unknown gender) are left out; None where fewer than two groups remain.
    """
    table = table[table[column].astype(str) != ""]
    groups = {str(name): part for name, part in table.groupby(column, sort=True)}
    if len(groups) < 2:
        return None
    found = {name: _group_scores(part) for name, part in groups.items()}
    ranked = sorted(found, key=lambda name: found[name]["accuracy"])
    worst, best = ranked[0], ranked[-1]
    bounds = _accuracy_difference(groups[worst], groups[best], repetitions)
    known = [float(bounds.low[0]), float(bounds.high[0])] if math.isfinite(bounds.low[0]) else None
    return {"gap": float(bounds.estimate[0]), "best": best, "worst": worst, "interval": known, "groups": found}


def _group_scores(table: pd.DataFrame) -> dict[str, Any]:
    found, speakers = scores(table), int(table["speaker"].nunique())
    return {"accuracy": found["wa"], "uar": found["uar"], "n": found["n"], "speakers": speakers}


def _accuracy_difference(worst: pd.DataFrame, best: pd.DataFrame, repetitions: int | None) -> Bounds:
    """Accuracy of ``best`` minus that of ``worst``, speakers redrawn inside each."""
    rows = []
    for side, table in enumerate((worst, best)):
        right = (table["emotion"] == table["predicted"]).astype(float)
        # A speaker in both groups is two units; the units of the worst group sort first.
        unit = f"{side} " + table["speaker"]
        rows.append(pd.DataFrame({"id": table["id"], "unit": unit, "side": side, "right": right}))
    counts = pd.concat(rows).groupby(["side", "unit", "id"]).mean().reset_index()  # seeds of one utterance count once
    answers, upper = counts["right"].to_numpy(), counts["side"].to_numpy()
    vectors = np.stack([answers * (1 - upper), 1 - upper, answers * upper, upper], axis=1)  # right and all of each side

    def difference(sums: np.ndarray) -> np.ndarray:  # (r, 4) -> (r,)
        return sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]

    return bootstrap_bounds(
        Counts.of(vectors),
        counts["unit"].to_numpy(),
        difference,
        repetitions=repetitions,
        strata=counts["side"].to_numpy(),
        limits=(-1.0, 1.0),
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
