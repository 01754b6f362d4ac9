"""The figures of a finished run, drawn from its tables alone."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from ser.evaluation.figures import run_figures, save_figure
from ser.io import told_writing


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
