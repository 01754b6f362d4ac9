"""How much of the speaker is left in the pooled features: probes trained on frozen features, judged on held-out ones.

A probe that names the training speakers better than chance means the network has kept who speaks, whatever the
adversary inside the training says: an adversary at chance does not show that the information is gone (Elazar & Goldberg
2018). A probe at chance says that these two kinds of probe find nothing.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ser.errors import SerError
from ser.evaluation.bootstrap import bootstrap_bounds
from ser.evaluation.predictions import read_embeddings, read_history, read_predictions
from ser.io import write_json

SPLITS = 5


def linear_probe(seed: int) -> ClassifierMixin:
    """Logistic regression on standardised features: what one linear layer could read."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3, max_iter=300, random_state=seed))


def mlp_probe(seed: int) -> ClassifierMixin:
    """One hidden layer of 64 on standardised features, stopped early on a tenth of its own training part."""
    network = MLPClassifier(
        (64,),
        early_stopping=True,
        n_iter_no_change=8,
        max_iter=100,
        alpha=1e-3,
        learning_rate_init=3e-3,
        random_state=seed,
    )
    return make_pipeline(StandardScaler(), network)


PROBES: dict[str, Callable[[int], ClassifierMixin]] = {"linear": linear_probe, "mlp": mlp_probe}


def write_leakage(folder: Path, best_epoch: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Probe the pooled features of a run for speakers and gender, and write ``leakage.json``.

    ``adversary_accuracy`` is the accuracy of the speaker head in training, at the epoch whose weights were kept.
    """
    train, test = read_predictions(folder / "train_predictions.csv"), read_predictions(folder / "predictions.csv")
    train_features = read_embeddings(folder / "train_embeddings.npy", len(train))
    test_features = read_embeddings(folder / "embeddings.npy", len(test))
    leakage: dict[str, Any] = {"speakers": probe_speakers(train_features, train, seed), "adversary_accuracy": None}
    history = read_history(folder / "history.csv") if (folder / "history.csv").is_file() else None
    if history is not None and "train/speaker_accuracy" in history:
        chosen = history[history["epoch"] == best_epoch]
        if len(chosen):
            leakage["adversary_accuracy"] = float(chosen["train/speaker_accuracy"].iloc[0])
    leakage["gender"] = probe_gender(train_features, train, test_features, test, seed)
    write_json(folder / "leakage.json", leakage)
    return leakage


def probe_speakers(train_embeddings: np.ndarray, train_table: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Name the training speakers from the pooled features of utterances the probe was not trained on.

    Five splits, each with a fifth of every speaker's utterances held out, so that every utterance is judged once.

    Args:
        train_embeddings: pooled features of the training part in evaluation mode, (n, P).
        train_table: its prediction table, same rows.
        seed: of the splits and probes.

    Returns:
        Ready for JSON: for ``linear`` and ``mlp`` the ``accuracy`` with ``low, high`` (95%, Wilson),
        ``balanced_accuracy``, ``accuracy_std_over_splits`` and ``p_above_chance`` (binomial, against the larger of the
        two chances); ``chance`` (1/S), ``majority`` (share of the most frequent speaker), ``speakers``, ``n``,
        ``splits``, ``left_out`` (speakers with fewer than five utterances); and ``held_out``, the ids with each probe's
        right (1) or wrong (0), for ``compare_probes``.

    Raises:
        SerError: rows do not match, or fewer than two speakers have five utterances.
    """
    _check_rows(train_embeddings, train_table)
    counts = train_table["speaker"].value_counts()
    kept = sorted(counts.index[counts >= SPLITS])
    if len(kept) < 2:
        raise SerError(
            f"the speaker probe needs two speakers with at least {SPLITS} utterances and the training table "
            f"has {len(kept)}; train on more speakers."
        )
    # Sorted by id, so that two runs on the same utterances hold out the same ones whatever their row order.
    rows = train_table.reset_index(drop=True)
    rows = rows[rows["speaker"].isin(kept)].sort_values("id")
    features, truth = train_embeddings[rows.index.to_numpy()], rows["speaker"].to_numpy(dtype=object)
    chance, majority = 1 / len(kept), float(counts[kept].max() / len(rows))
    result: dict[str, Any] = {
        "speakers": len(kept),
        "n": len(rows),
        "splits": SPLITS,
        "chance": chance,
        "majority": majority,
        "left_out": sorted(set(counts.index) - set(kept)),
        "held_out": {"id": rows["id"].tolist()},
    }
    folds = list(StratifiedKFold(SPLITS, shuffle=True, random_state=seed).split(features, truth))
    for name, make in PROBES.items():
        named = np.empty(len(rows), dtype=object)
        for train, held_out in folds:
            named[held_out] = _fit(make(seed), features[train], truth[train]).predict(features[held_out])
        right = named == truth
        result[name] = _share(right, max(chance, majority)) | {
            "balanced_accuracy": float(balanced_accuracy_score(truth.tolist(), named.tolist())),
            "accuracy_std_over_splits": float(np.std([right[held_out].mean() for _, held_out in folds], ddof=1)),
        }
        result["held_out"][name] = right.astype(int).tolist()
    return result


def probe_gender(
    train_embeddings: np.ndarray,
    train_table: pd.DataFrame,
    test_embeddings: np.ndarray,
    test_table: pd.DataFrame,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Tell the gender of the test speakers with probes trained on the training speakers' gender.

    Gender is a property of few speakers: the interval resamples test speakers, and with one or two a gender it is wide.

    Returns:
        For ``linear`` and ``mlp`` the ``accuracy, balanced_accuracy, low, high`` (95% interval of the balanced
        accuracy), with ``chance`` (of the balanced accuracy), ``majority``, ``speakers``, ``n`` and ``held_out``; None
        where the gender is unknown or only one occurs in either part.

    Raises:
        SerError: rows do not match.
    """
    _check_rows(train_embeddings, train_table)
    _check_rows(test_embeddings, test_table)
    known = [(table["gender"] != "").to_numpy() for table in (train_table, test_table)]
    train, test = train_table[known[0]], test_table[known[1]]
    genders = sorted(train["gender"].unique())
    if len(genders) < 2 or sorted(test["gender"].unique()) != genders:
        return None
    truth = test["gender"].to_numpy(dtype=object)
    result: dict[str, Any] = {
        "n": len(test),
        "speakers": int(test["speaker"].nunique()),
        "chance": 1 / len(genders),
        "majority": float(test["gender"].value_counts(normalize=True).max()),
        "held_out": {"id": test["id"].tolist()},
    }
    for name, make in PROBES.items():
        probe = _fit(make(seed), train_embeddings[known[0]], train["gender"].to_numpy(dtype=object))
        named = probe.predict(test_embeddings[known[1]])
        low, high = _speaker_interval(truth, named, test["speaker"].to_numpy(), genders, seed)
        result[name] = {
            "accuracy": float(np.mean(named == truth)),
            "low": low,
            "high": high,
            "balanced_accuracy": float(balanced_accuracy_score(truth.tolist(), named.tolist())),
        }
        result["held_out"][name] = (named == truth).astype(int).tolist()
    return result


def compare_probes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Whether probes read less after a change (adversarial training, say), on the utterances that both judged.

    Exact McNemar test (1947) a probe: of the utterances that only one of the two named rightly, each is as likely to be
    right under either when nothing changed.

    Returns:
        ``n`` and for ``linear`` and ``mlp``: ``before, after, difference`` (accuracy), ``only_before``, ``only_after``
        and ``p``.

    Raises:
        SerError: the probes share no utterance.
    """
    tables = [pd.DataFrame(probe["held_out"]).set_index("id") for probe in (before, after)]
    shared = tables[0].index.intersection(tables[1].index)
    if shared.empty:
        raise SerError("the two speaker probes share no utterance; compare probes of runs of the same fold.")
    result: dict[str, Any] = {"n": len(shared)}
    for name in PROBES:
        first, second = (table.loc[shared, name].to_numpy() for table in tables)
        only_before, only_after = int((first > second).sum()), int((second > first).sum())
        differing = only_before + only_after
        result[name] = {
            "before": float(first.mean()),
            "after": float(second.mean()),
            "difference": float(second.mean() - first.mean()),
            "only_before": only_before,
            "only_after": only_after,
            "p": float(stats.binomtest(only_before, differing).pvalue) if differing else 1.0,
        }
    return result


def _fit(probe: ClassifierMixin, features: np.ndarray, labels: np.ndarray) -> Any:
    """Fit quietly: a probe that has not fully converged is still a lower bound on what can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features.astype(np.float32), labels)


def _share(right: np.ndarray, chance: float) -> dict[str, float]:
    tested = stats.binomtest(int(right.sum()), len(right), chance, alternative="greater")
    low, high = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {
        "accuracy": float(right.mean()),
        "low": float(low),
        "high": float(high),
        "p_above_chance": float(tested.pvalue),
    }


def _speaker_interval(
    truth: np.ndarray, named: np.ndarray, speakers: np.ndarray, genders: list[str], seed: int
) -> tuple[float, float]:
    """95% interval of the balanced accuracy; speakers are redrawn inside their gender, so that none vanishes."""
    counts = np.concatenate(
        [(truth == gender)[:, None] * np.stack([named == truth, named != truth], axis=1) for gender in genders], axis=1
    ).astype(float)  # (n, 2*G)

    def balanced(sums: np.ndarray) -> np.ndarray:
        totals = sums.sum(axis=1).reshape(len(sums), len(genders), 2)
        return (totals[..., 0] / totals.sum(axis=-1)).mean(axis=-1)

    bounds = bootstrap_bounds(counts, speakers, balanced, seed=seed, strata=truth)
    return float(bounds.low[0]), float(bounds.high[0])


def _check_rows(embeddings: np.ndarray, table: pd.DataFrame) -> None:
    if len(embeddings) != len(table):
        raise SerError(
            f"the features have {len(embeddings)} rows and their table has {len(table)}; give the two files "
            "of the same run."
        )
