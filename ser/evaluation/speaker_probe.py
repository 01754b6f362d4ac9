"""How much of the speaker is left in the pooled features of a trained network.

Two attacks on frozen features: name the training speakers on held-out utterances (closed set), and tell the gender of
unseen speakers. ``ser.evaluation.speaker_verification`` holds the third, the open set. An adversary at chance during
training does not show that the information is gone (Elazar & Goldberg 2018), and no single probe sees every kind of
leak: speakers may differ in directions of small variance, in their variances only, in pairs of takes, or in another
way in each emotion. Therefore several kinds of classifier are tried, mostly on whitened features, one of them with the
emotion of each utterance, which an attacker may know, and the strongest one counts.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from ser.errors import SerError
from ser.evaluation.bootstrap import Bounds, Counts, bootstrap_bounds
from ser.evaluation.speaker_features import SPLITS, VIEWS, Parts, Refit, View, prepare, rows_to_probe, within_emotion

Probe = tuple[str, View, Callable[[], ClassifierMixin]]  # name, view, constructor
Folds = Sequence[tuple[np.ndarray, np.ndarray]]  # training and held-out rows


def _probes(seed: int) -> list[Probe]:
    """Every kind of probe, one entry per setting. The split that a probe is judged on never chooses its setting."""
    lda = partial(LinearDiscriminantAnalysis, solver="lsqr", shrinkage="auto")
    logistic = partial(LogisticRegression, tol=1e-2, max_iter=100)
    qda = partial(QuadraticDiscriminantAnalysis, solver="eigen")
    # 60 epochs of Adam name .71 .44 .61 .66 (four networks) in three times the time; this .71 .47 .60 .66.
    mlp = partial(MLPClassifier, (64,), alpha=1.0, solver="lbfgs", max_iter=30, random_state=seed)
    neighbours = partial(KNeighborsClassifier, 5, metric="cosine", weights="distance")
    return [
        *(("LDA", view, lda) for view in ("scaled", "whitened")),
        *(("LDA", "scaled", partial(lda, shrinkage=shrinkage)) for shrinkage in (0.003, 0.03)),
        *(("logistic", "scaled", partial(logistic, C=strength)) for strength in (0.1, 100.0)),
        *(("logistic", "whitened", partial(logistic, C=strength)) for strength in (0.01, 0.1, 1.0)),
        *(("RBF-SVM", view, partial(SVC, C=10.0)) for view in ("whitened", "softly whitened")),
        ("RBF-SVM", "within emotion", partial(SVC, C=10.0, gamma=0.5)),  # C 3 to 30, gamma .35 to .5 are level
        *(("QDA", "whitened", partial(qda, shrinkage=shrinkage)) for shrinkage in ("auto", 0.1, 0.3)),
        ("MLP", "whitened", mlp),
        *(("neighbours", view, neighbours) for view in ("whitened", "softly whitened")),
    ]


KINDS = tuple(dict.fromkeys(kind for kind, _, _ in _probes(0)))


def name_speakers(
    features: np.ndarray, table: pd.DataFrame, seed: int = 0, refit: Refit | None = None
) -> dict[str, Any]:
    """Closed set: how often the strongest probe names the training speaker of an utterance it was not trained on.

    Five splits, each with a fifth of every speaker's utterances held out, so that every utterance is judged once. The
    probe that judges a split is the one with the best accuracy on the four other splits: the figure is not the luckiest
    of many. ``control`` is the same procedure on speakers permuted within each emotion: what the emotion
    alone tells about the speaker. Corpora of many utterances or speakers are subsampled. It takes the pooled features
    (n, P) of the training part in evaluation mode, and its prediction table with the same rows. With ``refit``, which
    fits a removal of the speaker anew without some rows, each split is judged on rows that the removal has not seen.

    Returns:
        Ready for JSON: ``accuracy`` of the strongest probe with ``low, high`` (95%, resampling speakers), ``probe``
        (the kind that judged most splits), ``kinds`` (accuracy of each kind), ``control`` (accuracy, low, high),
        ``verdict``, ``chance`` (1/S), ``speakers``, ``n``, ``left_out`` (speakers with fewer than five utterances or
        beyond the limit) and ``held_out``: id, speaker and whether right (1) or wrong (0), for ``compare_over_runs``.

    Raises:
        SerError: rows do not match, or fewer than two speakers have five utterances.
    """
    rows = rows_to_probe(features, table, SPLITS)
    truth = rows["speaker"].to_numpy(dtype=object)
    speakers = int(rows["speaker"].nunique())
    if speakers < 2:
        raise SerError(
            f"the speaker probe needs two speakers with at least {SPLITS} utterances and the training table "
            f"has {speakers}; train on more speakers."
        )
    place, fit = rows.index.to_numpy(), refit or (lambda _: features)
    result: dict[str, Any] = {"chance": 1 / speakers, "speakers": speakers, "n": len(rows)}
    result["left_out"] = sorted(set(table["speaker"]) - set(truth))
    emotions = rows["emotion"].to_numpy()
    permuted = _permute_within(truth, emotions, seed)
    for labels in (permuted, truth):
        folds = _stratified(labels, emotions, seed)
        right = _right(lambda held_out: fit(place[held_out])[place], labels, emotions, folds, seed)  # (probes, n)
        chosen, judged = _choose_across(right, folds, KINDS)
        counts = Counts.of(np.stack([judged, np.ones(len(rows))], axis=1))
        figure = _figure(bootstrap_bounds(counts, labels, _ratio, seed=seed))
        if labels is permuted:
            result["control"] = figure
    result |= figure | {
        "probe": max(KINDS, key=chosen.count),
        "kinds": {kind: float(_choose_across(right, folds, (kind,))[1].mean()) for kind in KINDS},
        "verdict": _verdict(figure, result["control"]),
    }
    result["held_out"] = {"id": rows["id"].tolist(), "speaker": truth.tolist(), "right": judged.astype(int).tolist()}
    return result


def tell_gender(
    train_features: np.ndarray,
    train_table: pd.DataFrame,
    test_features: np.ndarray,
    test_table: pd.DataFrame,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How well the gender of the test speakers is told by the probe that was best between the training speakers.

    The probe is chosen by cross-validation over training speakers. Gender is a property of few speakers: the interval
    resamples test speakers and is wide where there are few. ``control``: genders permuted within each emotion.

    Returns:
        Balanced ``accuracy`` with ``low, high`` (95%), ``probe``, ``control``, ``verdict``, ``chance``, ``speakers``,
        ``n``; None where the gender is unknown, only one occurs in a part, or one has a single training speaker.

    Raises:
        SerError: rows do not match.
    """
    train = rows_to_probe(train_features, train_table, 1, known="gender")
    test = rows_to_probe(test_features, test_table, 1, known="gender")
    genders, counts = sorted(train["gender"].unique()), train.groupby("gender")["speaker"].nunique()
    if len(genders) < 2 or sorted(test["gender"].unique()) != genders or counts.min() < 2:
        return None
    features = np.concatenate([train_features[train.index.to_numpy()], test_features[test.index.to_numpy()]])
    rows = pd.concat([train, test], ignore_index=True)
    truth, emotions, n = rows["gender"].to_numpy(dtype=object), rows["emotion"].to_numpy(), len(train)
    splitter = StratifiedGroupKFold(int(min(3, counts.min())), shuffle=True, random_state=seed)
    folds = [*splitter.split(features[:n], truth[:n], train["speaker"]), (np.arange(n), np.arange(n, len(rows)))]
    result: dict[str, Any] = {"chance": 1 / len(genders), "speakers": int(test["speaker"].nunique()), "n": len(test)}
    for labels in (_permute_within(truth, emotions, seed), truth):
        right = _right(lambda _: features, labels, emotions, folds, seed)  # (probes, n)
        inside = [np.mean([row[:n][labels[:n] == gender].mean() for gender in genders]) for row in right]
        best = int(np.argmax(inside))
        figure = _balanced_figure(right[best, n:], labels[n:], test, genders, seed)
        if labels is not truth:
            result["control"] = figure
    return result | figure | {"probe": _probes(seed)[best][0], "verdict": _verdict(figure, result["control"])}


def _right(refit: Refit, labels: np.ndarray, emotions: np.ndarray, folds: Folds, seed: int) -> np.ndarray:
    """Whether each probe names the label of each held-out row of ``folds``, (probes, n); False elsewhere."""
    probes = _probes(seed)
    right = np.zeros((len(probes), len(labels)), dtype=bool)
    for train, held_out in folds:
        values = refit(held_out)
        views: dict[View, Parts] = {view: prepare(values[train], values[held_out], view) for view in VIEWS}
        views["within emotion"] = within_emotion(values[train], values[held_out], emotions[train], emotions[held_out])
        for row, (_, view, make) in enumerate(probes):
            inner, outer = views[view]
            # Not converged, it is still a lower bound on the leak; not fitted (collapsed features), it names nobody.
            with warnings.catch_warnings(), suppress(np.linalg.LinAlgError):
                warnings.simplefilter("ignore", ConvergenceWarning)
                right[row, held_out] = make().fit(inner, labels[train]).predict(outer) == labels[held_out]
    return right


def _stratified(speakers: np.ndarray, emotions: np.ndarray, seed: int) -> Folds:
    """Training and held-out rows of each split; every speaker's utterances of each emotion are spread over the splits.

    Splits that ignore the emotion push the probes below chance: a held-out utterance's emotion is by that one utterance
    rarer among its speaker's training rows.
    """
    rows = pd.DataFrame({"speaker": speakers, "emotion": emotions}).sample(frac=1, random_state=seed)
    split = rows.sort_values(["speaker", "emotion"], kind="stable").groupby("speaker").cumcount().sort_index() % SPLITS
    return [(np.flatnonzero(split != number), np.flatnonzero(split == number)) for number in range(SPLITS)]


def _choose_across(right: np.ndarray, folds: Folds, kinds: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Chosen kind per split, and right or wrong (n,): each split judged by the probe that was best on the others."""
    names = [kind for kind, _, _ in _probes(0)]
    entries = [row for row, name in enumerate(names) if name in kinds]
    judged, chosen = np.empty(right.shape[1]), []
    for _, held_out in folds:
        others = np.ones(right.shape[1], dtype=bool)
        others[held_out] = False
        best = entries[int(np.argmax(right[entries][:, others].mean(axis=1)))]
        chosen.append(names[best])
        judged[held_out] = right[best, held_out]
    return chosen, judged


def _permute_within(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """``labels`` permuted between rows of the same group."""
    generator, permuted = np.random.default_rng(seed), labels.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        permuted[rows] = labels[generator.permutation(rows)]
    return permuted


def _balanced_figure(
    right: np.ndarray, labels: np.ndarray, table: pd.DataFrame, genders: list[str], seed: int
) -> dict[str, float | None]:
    """Balanced accuracy with its interval; speakers are drawn within their gender, so that neither vanishes."""
    counts = np.concatenate(
        [(labels == gender)[:, None] * np.stack([right, np.ones(len(right))], axis=1) for gender in genders], axis=1
    ).astype(float)  # (n, 2 G)

    def balanced(sums: np.ndarray) -> np.ndarray:
        totals = sums.reshape(len(sums), len(genders), 2)
        return np.asarray(_ratio(totals).mean(axis=-1))

    speakers, strata = (table[column].to_numpy(dtype=object) for column in ("speaker", "gender"))
    return _figure(bootstrap_bounds(Counts.of(counts), speakers, balanced, seed=seed, strata=strata))


def _ratio(counts: np.ndarray) -> np.ndarray:
    """Right / all from the last axis (right, all)."""
    return np.asarray(counts[..., 0] / counts[..., 1])


def _figure(bounds: Bounds) -> dict[str, float | None]:
    """Ready for JSON; no interval (None) where there are too few speakers for one."""
    values = {"accuracy": bounds.estimate[0], "low": bounds.low[0], "high": bounds.high[0]}
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _verdict(figure: dict[str, Any], control: dict[str, Any]) -> str | None:
    """Above or below where the two 95% intervals do not overlap; below can only be a fault of the instrument."""
    if figure["low"] is None or control["low"] is None:
        return None
    if figure["low"] > control["high"]:
        return "above"
    return "below" if figure["high"] < control["low"] else "level"
