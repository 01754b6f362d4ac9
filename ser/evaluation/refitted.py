"""Pooled features after a speaker removal that was fitted without them.

A removal in closed form (``ser.adversary.Erasure``) is fitted to the training part: there it leaves less of the speaker
than in utterances that it has not seen. A probe on ``train_embeddings.npy`` would therefore find too little. Here the
removal of a finished run is fitted again without the utterances that a probe is judged on. The network stays as it is.

This module loads PyTorch, so ``ser.evaluation.leakage`` imports it only where a run has such a removal.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ser.adversary import Adversary
from ser.errors import SerError
from ser.evaluation.predictions import read_embeddings
from ser.evaluation.speaker_probe import SPLITS, Refit
from ser.inference.checkpoint import read_checkpoint
from ser.inference.engines import build_network
from ser.models.network import Network, construct


def refit_of(folder: Path, table: pd.DataFrame, answers: Callable[[np.ndarray], np.ndarray] | None = None) -> Refit:
    """A function from rows to the pooled features (n, P) of all rows, by the run's removal fitted without those rows.

    Args:
        folder: of the run; it holds ``train_statistics.npy``, what the removal was fitted to.
        table: prediction table of its training part.
        answers: what is returned in place of the features, of the probabilities (n, C) that the emotion head gives.

    Raises:
        SerError: the statistics or the checkpoint are missing, damaged, or of different runs.
    """
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
