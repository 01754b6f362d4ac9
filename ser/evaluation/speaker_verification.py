"""Whether utterances of unseen speakers can be linked to each other by their pooled features: speaker verification."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_curve

from ser.evaluation.speaker_features import prepare, rows_to_probe

_SHRINKAGE = 0.05  # of the covariance within speakers


def verify_speakers(
    train_features: np.ndarray, train_table: pd.DataFrame, test_features: np.ndarray, test_table: pd.DataFrame
) -> dict[str, Any] | None:
    """Open set: equal error rate in deciding whether two utterances of unseen speakers come from one speaker.

    Both utterances of a trial have the same emotion (otherwise the emotion hides the speaker), and features are taken
    relative to the mean of that emotion in the training part. Three scores: cosine, cosine after whitening within the
    training speakers, and PLDA trained on them; the one with the lowest error between training speakers (two halves,
    each the other's test) is reported.
    50% means that nothing is left. The 95% interval is a jackknife over speakers with Student's t.

    Returns:
        ``eer`` with ``low, high`` (None with fewer than three speakers), ``score`` (the name), ``scores`` (the error
        rate of each), ``speakers``, ``same`` and ``different`` (numbers of trials); None where no emotion has trials of
        both kinds.

    Raises:
        SerError: rows do not match.
    """
    train, test = rows_to_probe(train_features, train_table, 2), rows_to_probe(test_features, test_table, 1)
    if train["speaker"].nunique() < 4:
        return None
    means = pd.DataFrame(train_features.astype(float)).groupby(train_table["emotion"].to_numpy()).mean()
    test = test[test["emotion"].isin(means.index)]
    known, unseen = (
        values[rows.index.to_numpy()].astype(float) - means.loc[rows["emotion"]].to_numpy()
        for values, rows in ((train_features, train), (test_features, test))
    )
    score = _scores(known, list(train["speaker"]), unseen)
    found = {name: _equal_error_rate(values, test) for name, values in score.items()}
    best = _better_score(known, train)
    estimate = found[best]
    if estimate is None:
        return None
    people = sorted(test["speaker"].unique())
    without = [_equal_error_rate(score[best], test, leave_out=person) for person in people]
    same, different = _trials(test)
    low, high = _jackknife(estimate, without)
    return {
        "eer": estimate,
        "low": low,
        "high": high,
        "score": best,
        "scores": found,
        "speakers": len(people),
        "same": int(same.sum()),
        "different": int(different.sum()),
    }


def _better_score(features: np.ndarray, table: pd.DataFrame) -> str:
    """The score with the lowest error between training speakers, each half scored by what the other half trained."""
    codes, names = pd.factorize(table["speaker"], sort=True)
    halves = np.random.default_rng(0).permutation(len(names))[codes] % 2
    errors: dict[str, list[float]] = {}
    for half in (0, 1):
        own, other = halves == half, halves != half
        for name, score in _scores(features[own], list(table["speaker"][own]), features[other]).items():
            errors.setdefault(name, []).append(_equal_error_rate(score, table[other]) or 0.0)
    return min(errors, key=lambda name: np.mean(errors[name]))


def _scores(train: np.ndarray, speakers: Sequence[str], test: np.ndarray) -> dict[str, np.ndarray]:
    """Cosine, WCCN and PLDA scores (n, n) between the rows of ``test`` (n, P); the larger, the more alike.

    WCCN is the cosine after whitening by the covariance within speakers (Hatch et al. 2006). PLDA in the form of Ioffe
    (2006): in the coordinates of LDA the variance within speakers is 1 and between speakers ``psi``, and the
    log-likelihood ratio of "same" to "different" is a sum over coordinates. Where the training rows are all alike, as
    from a network that answers by the emotion alone, the cosine is the only score.
    """
    scaled, scaled_test = prepare(train, test, "scaled")
    train, test = prepare(train, test, "whitened")
    score = {"cosine": _cosine(test)}
    if not train.any():
        return score
    within = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE).fit(scaled, speakers).covariance_
    score["WCCN"] = _cosine(np.linalg.solve(np.linalg.cholesky(within), scaled_test.T).T)
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(train, speakers)
    inner, outer = model.transform(train), model.transform(test)
    groups = pd.DataFrame(inner).groupby(np.asarray(speakers))
    psi = np.maximum(groups.mean().var().to_numpy() - (1 / groups.size()).mean(), 0.0)
    total, gain = 1 + psi, psi * psi / (1 + 2 * psi)
    own = -0.5 * (outer**2 * gain / total).sum(axis=1)  # the same constant for each pair is left out
    score["PLDA"] = own[:, None] + own[None, :] + (outer * psi / (1 + 2 * psi)) @ outer.T
    return score


def _cosine(rows: np.ndarray) -> np.ndarray:
    """Cosine (n, n) between the rows (n, P); 0 for rows of zeros."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(unit @ unit.T)


def _trials(table: pd.DataFrame, leave_out: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs (n, n), each counted once, are trials of one speaker and of two speakers, within one emotion."""
    speaker, emotion = table["speaker"].to_numpy(), table["emotion"].to_numpy()
    pairs = np.triu(emotion[:, None] == emotion[None, :], k=1)
    pairs &= (speaker != leave_out)[:, None] & (speaker != leave_out)[None, :]
    equal = speaker[:, None] == speaker[None, :]
    return pairs & equal, pairs & ~equal


def _equal_error_rate(scores: np.ndarray, table: pd.DataFrame, leave_out: str | None = None) -> float | None:
    """Error where false acceptances and false rejections are equally frequent; None without trials of both kinds."""
    same, different = _trials(table, leave_out)
    if not same.any() or not different.any():
        return None
    truth = np.r_[np.ones(same.sum()), np.zeros(different.sum())]
    accepted, found, _ = roc_curve(truth, np.r_[scores[same], scores[different]], drop_intermediate=False)
    nearest = int(np.argmin(np.abs(1 - found - accepted)))
    return float((1 - found[nearest] + accepted[nearest]) / 2)


def _jackknife(estimate: float, without: Sequence[float | None]) -> tuple[float | None, float | None]:
    """95% interval of ``estimate`` from the estimates with one speaker left out each."""
    values = np.array([value for value in without if value is not None])
    if len(values) < 3:
        return None, None
    error = np.sqrt((len(values) - 1) * np.var(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1) * error)
    return max(0.0, estimate - reach), min(1.0, estimate + reach)
