"""Every figure of a run or a sweep, drawn from its tables; ``FIGURES`` lists them with their captions."""

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ser.evaluation.figures import network as _network  # noqa: F401  each module adds its figures to the list
from ser.evaluation.figures import training as _training  # noqa: F401
from ser.evaluation.figures.style import FIGURES, FORMATS, encode_figure, save_figure
from ser.evaluation.figures.sweep import Sweep
from ser.evaluation.report.cells import short_names
from ser.evaluation.runs import Run, load_run, warnings_of
from ser.evaluation.summary import Summary
from ser.io import write_errors

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

_LARGEST_SIDE = 2000  # pixels of a figure for loggers; the files in figures/ are as they were drawn


def figures_of_run(run: Run) -> dict[str, Figure]:
    """Every figure that the files of a run allow, by name."""
    return _drawn("run", run, [run])


def figures_of_sweep(runs: Sequence[Run], summary: Summary) -> dict[str, Figure]:
    """Every figure that compares the variants of a summary, by name; variants are named as in its tables."""
    names, _ = short_names([str(name) for name in summary.variants["variant"]])
    variants = summary.variants.assign(variant=summary.variants["variant"].map(names))
    short = replace(summary, variants=variants, baseline=names[summary.baseline])
    runs = [replace(run, variant=names[run.variant]) for run in runs]
    return _drawn("sweep", Sweep(runs, short), runs)


def caption_of(name: str) -> str:
    """What to look for in the figure of this name."""
    return next(entry.caption for entry in FIGURES if entry.name == name.partition("-")[0])


def write_figures(folder: Path, loggers: Sequence["Logger"] = (), formats: Sequence[str] = ("png",)) -> None:
    """Draw a finished run into its ``figures/`` and hand the figures to TensorBoard and Weights & Biases.

    The folder appears whole or not at all: a run that was killed while drawing draws again when it is resumed. Files of
    other formats that are there stay.

    Raises:
        SerError: the run is not finished or damaged, a format is unknown, or the folder cannot be written.
    """
    _replace(folder, figures_of_run(load_run(folder)), loggers, formats)


def write_sweep_figures(folder: Path, runs: Sequence[Run], summary: Summary, formats: Sequence[str] = ("png",)) -> None:
    """Draw what compares the variants of a sweep into the ``figures/`` of its folder, as ``write_figures`` does."""
    _replace(folder, figures_of_sweep(runs, summary), (), formats)


def log_image(name: str, png: bytes, loggers: Sequence["Logger"], step: int | None = None) -> None:
    """Show a drawn figure in TensorBoard and Weights & Biases; others show none."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger  # noqa: PLC0415  reports need no torch

    picture = Image.open(io.BytesIO(png))
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))  # TensorBoard takes ten times the memory of what it is given
    image = np.asarray(picture)  # (height, width, 4)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"figures/{name}", image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(f"figures/{name}", [image], step)


def _replace(folder: Path, figures: Mapping[str, Figure], loggers: Sequence["Logger"], formats: Sequence[str]) -> None:
    drawn, kept = folder / "figures.partial", folder / "figures"
    shutil.rmtree(drawn, ignore_errors=True)
    try:
        for name, figure in figures.items():
            save_figure(figure, drawn / name, formats)
            if loggers:
                file = drawn / f"{name}.png"  # drawing takes longer than reading
                log_image(name, file.read_bytes() if "png" in formats else encode_figure(figure), loggers)
        with write_errors(kept):
            for old in kept.glob("*.*"):
                if old.suffix.removeprefix(".") in {*FORMATS} - {*formats}:
                    shutil.copy2(old, drawn)
            shutil.rmtree(kept, ignore_errors=True)
            drawn.rename(kept)
    finally:
        shutil.rmtree(drawn, ignore_errors=True)


def _drawn(source: str, data: Any, runs: Sequence[Run]) -> dict[str, Figure]:
    figures = {}
    for entry in FIGURES:
        for variant, inputs in entry.inputs(data) if entry.source == source else ():
            note = "; ".join(warnings_of([run for run in runs if variant in ("", run.variant)]))
            name = f"{entry.name}-{variant}" if variant else entry.name
            figures[re.sub(r"[^\w.=-]+", "_", name)] = entry.draw(*inputs, note=note)
    return figures
