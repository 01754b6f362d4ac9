"""Pooled features as a probe of the speaker gets them: a part of the rows, prepared by its training rows alone.

A removal in closed form (``ser.adversary.Erasure``) is fitted to the training part: there it leaves less of the speaker
than in utterances that it has not seen. A probe on ``train_embeddings.npy`` would therefore find too little. So the
removal of a finished run is fitted again without the utterances that a probe is judged on. The network stays as it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.linalg import LinAlgError
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from ser.errors import SerError
from ser.evaluation.predictions import read_embeddings

Plain = Literal["scaled", "whitened", "softly whitened"]  # without knowing the emotion
View = Plain | Literal["within emotion"]
VIEWS: tuple[Plain, ...] = get_args(Plain)
Parts = tuple[np.ndarray, np.ndarray]  # rows that a probe learns from, rows that it is judged on
Refit = Callable[[np.ndarray], np.ndarray]  # rows that a removal must not see, to features (n, P) of all rows

SPLITS = 5  # of the utterances of each speaker
MOST_SPEAKERS, MOST_ROWS = 40, 1000  # bound the time, whatever the size of the corpus
MOST_COMPONENTS = 128  # bounds the time
TINY_VARIANCE = 1e-9  # relative to the largest: below is the rounding error of float32 features
RIDGE, WITHIN_RIDGE = 0.05, 0.2  # of the mean variance: softly whitened features keep small directions small


def rows_to_probe(features: np.ndarray, table: pd.DataFrame, fewest: int, known: str = "speaker") -> pd.DataFrame:
    """Rows of the table to probe, sorted by id, with their positions as index; the same utterances for the same ids.

    Left out are rows without the label ``known``, speakers with fewer than ``fewest`` utterances, then those with the
    fewest until at most ``MOST_SPEAKERS`` are left, each with its part of ``MOST_ROWS`` utterances.

    Raises:
        SerError: there are not as many rows of features (n, P).
    """
    if len(features) != len(table):
        raise SerError(
            f"the features have {len(features)} rows and their table has {len(table)}; give the two files of the same "
            "run."
        )
    rows = table.reset_index(drop=True).sort_values("id")
    rows = rows[rows[known] != ""]
    counts = rows["speaker"].value_counts()
    kept = sorted(counts.index[counts >= fewest], key=lambda name: (-counts[name], name))[:MOST_SPEAKERS]
    rows = rows[rows["speaker"].isin(kept)].sample(frac=1, random_state=0)
    most = MOST_ROWS // max(1, len(kept))
    return rows[rows.groupby("speaker").cumcount() < most].sort_values("id")


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
    pca = principal_axes(train)
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


def principal_axes(features: np.ndarray) -> PCA:
    """All principal axes of features (n, P).

    LAPACK's singular values do not end for some matrices of less than full rank (seen: Whisper's frames with OpenBLAS
    0.3.30), which would lose a run at its last step. Eigenvalues of the covariance, which are less exact, then do.
    """
    try:
        return PCA(svd_solver="full").fit(features)
    except LinAlgError:
        return PCA(svd_solver="covariance_eigh").fit(features)


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


def refit_of(folder: Path, table: pd.DataFrame, answers: Callable[[np.ndarray], np.ndarray] | None = None) -> Refit:
    """A function from rows to the pooled features (n, P) of all rows, by the run's removal fitted without those rows.

    Args:
        folder: of the run; it holds ``train_statistics.npy``, what the removal was fitted to.
        table: prediction table of its training part.
        answers: what is returned in place of the features, of the probabilities (n, C) that the emotion head gives.

    Raises:
        SerError: the statistics or the checkpoint are missing, damaged, or of different runs.
    """
    import torch  # noqa: PLC0415  few runs have such a removal

    from ser.adversary import Adversary  # noqa: PLC0415
    from ser.cpu import network_products  # noqa: PLC0415
    from ser.inference.checkpoint import read_checkpoint  # noqa: PLC0415
    from ser.inference.engines import build_network  # noqa: PLC0415
    from ser.models.network import Network, construct  # noqa: PLC0415

    path = folder / "checkpoints" / "best.ckpt"
    config, weights = read_checkpoint(path)
    network = build_network(config, weights, path).eval()
    speaker = torch.from_numpy(pd.factorize(table["speaker"], sort=True)[0])
    emotion = torch.tensor([config.emotions.index(name) for name in table["emotion"]])
    make = construct(config.plain.get("adversary") or {}, "ser.adversary")
    adversary = make(network.pooled_size, int(speaker.max()) + 1, len(config.emotions))
    if not (isinstance(network, Network) and isinstance(adversary, Adversary) and adversary.refits):
        raise SerError(
            f"{folder} has train_statistics.npy, but {path} no removal that is fitted; restore the run's own files, or "
            "run it again."
        )
    adversary.attach(network)
    erase = network.erase
    statistics = torch.from_numpy(read_embeddings(folder / "train_statistics.npy", len(table)))  # (n, F)

    @network_products(network)  # as in the run, whose last digits its probe can show
    @torch.no_grad()
    def features_without(rows: np.ndarray) -> np.ndarray:
        seen = torch.ones(len(table), dtype=torch.bool)
        seen[torch.from_numpy(rows)] = False
        adversary.refit([(statistics[seen], speaker[seen], emotion[seen])])
        pooled = network.reduce(statistics if erase is None else erase(statistics))
        return np.asarray(pooled) if answers is None else answers(np.asarray(network.head(pooled).softmax(dim=1)))

    return features_without


def as_unseen_speakers(refit: Refit, table: pd.DataFrame) -> np.ndarray:
    """Pooled features (n, P) of each speaker by a removal that has seen other speakers only, as of the test part."""
    groups = pd.factorize(table["speaker"], sort=True)[0] % SPLITS
    features = [refit(np.flatnonzero(groups == number)) for number in range(SPLITS)]  # each (n, P)
    return np.stack(features)[groups, np.arange(len(table))]
