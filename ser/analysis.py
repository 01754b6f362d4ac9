"""What is made of a run's tables alone: the speaker leakage probe and the figures."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from ser.evaluation.figures import run_figures, save_figure
from ser.evaluation.predictions import read_embeddings, read_history, read_predictions
from ser.evaluation.speaker_probe import probe_gender, probe_speakers
from ser.io import told_writing, write_json

log = logging.getLogger(__name__)


def write_leakage(folder: Path, best_epoch: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Probe the pooled features of a run for speakers and gender, and write ``leakage.json``; its tables are enough.

    ``adversary_accuracy`` is what the adversary reached in training, in the epoch that was chosen: beside the probe it
    shows how much an adversary that gave up hides.
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


def write_figures(folder: Path, loggers: Iterable[Logger] = ()) -> None:
    """Draw a finished run into ``figures/`` and hand the same figures to TensorBoard and Weights & Biases.

    The folder appears whole or not at all: a run that was killed while drawing draws again when it is resumed.
    """
    loggers = list(loggers)
    drawn, kept = folder / "figures.partial", folder / "figures"
    shutil.rmtree(drawn, ignore_errors=True)
    try:
        for name, figure in run_figures(folder).items():
            save_figure(figure, drawn / f"{name}.png")
            for logger in loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(f"figures/{name}", figure, close=False)
                elif isinstance(logger, WandbLogger):
                    logger.log_image(f"figures/{name}", [str(drawn / f"{name}.png")])
        with told_writing(kept):
            shutil.rmtree(kept, ignore_errors=True)
            drawn.rename(kept)
    finally:
        shutil.rmtree(drawn, ignore_errors=True)
