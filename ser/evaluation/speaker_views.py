"""How pooled features are prepared for a probe of the speaker: by the statistics of its training rows alone."""

from typing import Literal, get_args

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

Plain = Literal["scaled", "whitened", "softly whitened"]  # without knowing the emotion
View = Plain | Literal["within emotion"]
VIEWS: tuple[Plain, ...] = get_args(Plain)
Parts = tuple[np.ndarray, np.ndarray]  # rows that a probe learns from, rows that it is judged on

MOST_COMPONENTS = 128  # bounds the time
TINY_VARIANCE = 1e-9  # relative to the largest: below is the rounding error of float32 features
RIDGE, WITHIN_RIDGE = 0.05, 0.2  # of the mean variance: softly whitened features keep small directions small


def prepare(train: np.ndarray, other: np.ndarray, view: Plain, ridge: float = RIDGE) -> Parts:
    """Both standardised and, unless ``scaled``, decorrelated with unit variance by ``train``'s statistics.

    Of the decorrelated values at most ``MOST_COMPONENTS``, and half as many as rows, are kept: with more, whitening
    turns noise into the loudest directions. Softly whitened, all are kept and those of small variance stay small.
    Standardised ones that are more than the rows are rotated onto what the rows span: distances stay, and the
    covariance of LDA is quick.
    """
    scaler = StandardScaler().fit(train.astype(float))
    train, other = scaler.transform(train.astype(float)), scaler.transform(other.astype(float))
    if (view == "scaled" and train.shape[1] <= len(train)) or not train.any():  # or no variance to whiten
        return train, other
    pca = PCA(svd_solver="full").fit(train)
    train, other, variance = pca.transform(train), pca.transform(other), pca.explained_variance_
    if view == "scaled":
        return train, other
    if view == "softly whitened":
        scale = np.sqrt(variance + ridge * variance.mean())
        return train / scale, other / scale
    variance = variance[: max(1, min(len(train) // 2, MOST_COMPONENTS))]
    kept = max(1, int((variance > TINY_VARIANCE * variance[0]).sum()))
    scale = np.sqrt(np.maximum(variance[:kept], np.finfo(float).tiny))
    return train[:, :kept] / scale, other[:, :kept] / scale


def within_emotion(train: np.ndarray, other: np.ndarray, known: np.ndarray, other_known: np.ndarray) -> Parts:
    """Both without the mean of each emotion in ``train``, softly whitened, beside a value per emotion.

    Squared distances within an emotion are 2 on average; another emotion adds 2 log 2. So ``exp(-distance^2 / 2)`` is
    the product of a kernel of the features and one of the emotion, which is 1/2 between two emotions.
    """
    train, other = train.astype(float), other.astype(float)
    is_emotion, other_is = (names[:, None] == np.unique(known) for names in (known, other_known))  # (n, E)
    shifts = is_emotion.T @ (train - train.mean(axis=0)) / is_emotion.sum(axis=0)[:, None]  # (E, P)
    inner, outer = train - is_emotion @ shifts, other - other_is @ shifts
    varies = inner.var(axis=0) > TINY_VARIANCE * train.var(axis=0)
    inner, outer = prepare(inner * varies, outer * varies, "softly whitened", WITHIN_RIDGE)
    scale, step = np.sqrt(max(inner.var(axis=0).sum(), np.finfo(float).tiny)), np.sqrt(np.log(2))
    return np.hstack([inner / scale, step * is_emotion]), np.hstack([outer / scale, step * other_is])
