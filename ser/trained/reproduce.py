"""A finished run carried out again, and whether every figure agrees."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich import get_console

from ser.config.identity import first_difference, leaves, read_identity, stored_config, where_it_ran
from ser.errors import SerError
from ser.evaluation.predictions import probabilities, read_embeddings
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import reproduction_table
from ser.evaluation.runs import Run, load_run

MAIN = ("test.uar", "test.wa", "test.macro_f1", "test.weighted_f1", "validation.uar", "best_epoch", "epochs", "hash")
NOT_COMPARED = ("seconds", "prediction_seconds")  # of metrics.json; history.csv has times and memory as well


def reproduce(path: str, wanted: Path | None = None, tolerance: float = 1e-4) -> bool:
    """Carry out the finished run in ``path`` again and print the comparison; whether everything agrees.

    The ``wanted`` folder is a new one for the second run; None: a temporary one, kept where something differs.
    Figures and probabilities agree that differ by at most ``tolerance``.

    Raises:
        SerError: there is no such run, ``wanted`` is not a new folder, or the run fails.
    """
    original = load_run(path)
    if not original.metrics:
        raise SerError(f"{path} is a table, but only a run can be carried out again; give a run folder.")
    folder = _new_folder(original.folder, wanted)
    repeat(original.folder, folder)
    rows = compare_runs(original, load_run(folder), tolerance)
    agree = all(row[3] for row in rows)
    show([reproduction_table(rows)])
    verdict = f"the figures agree within {tolerance:g}" if agree else "the figures do NOT agree"
    get_console().print(verdict, style="bold" if agree else "bold red", highlight=False)
    if agree and wanted is None:
        shutil.rmtree(folder)
        get_console().print("the second run, whose folder was a temporary one, is removed", highlight=False)
    else:
        get_console().print(f"the second run is in {folder}", highlight=False, soft_wrap=True, markup=False)
    return agree


def repeat(original: Path, folder: Path) -> None:
    """Carry out the run of ``original`` in ``folder``, with the configuration that its run.json keeps.

    Raises:
        SerError: the configuration is not there or would call what this checkout's conf/ does not, or the run fails.
    """
    from ser.training import run as carry_out  # noqa: PLC0415  torch loads only when something runs

    cfg, choices, overrides = stored_config(original, folder)
    if "ddp" in str(OmegaConf.select(cfg, "trainer.strategy")):
        raise SerError(
            f"{original} was trained by several processes (trainer.devices={cfg.trainer.devices}), which only `ser "
            "train` starts; repeat its command with another variant=NAME, and compare the two with `ser compare`."
        )
    with where_it_ran(original):
        try:
            carry_out(cfg, choices, overrides)
        except OmegaConfBaseException as error:  # a setting is missing that this version needs
            raise SerError(
                f"{original}/run.json was written by another version ({str(error).splitlines()[0]}), expected all "
                "settings of this one; check out that version, or run it again by `ser train`."
            ) from error


Row = tuple[str, str, str, bool, str]  # figure, original, again, agrees, how


def compare_runs(one: Run, other: Run, tolerance: float) -> list[Row]:
    """The main figures, every other figure that differs, and the tables."""
    difference = first_difference(read_identity(one.folder), read_identity(other.folder))
    rows: list[Row] = [("settings and input", "", difference or "", difference is None, "")]
    first, second = (dict(leaves(entry.metrics, lists=True)) for entry in (one, other))
    keys = [key for key in dict.fromkeys([*MAIN, *first, *second]) if key in first | second and key not in NOT_COMPARED]
    figures = [_figure(key, first.get(key), second.get(key), tolerance) for key in keys]
    rows += [row for row in figures if row[0] in MAIN or not row[3]]
    rows.append(("all of metrics.json", f"{len(keys)} figures", "", all(row[3] for row in figures), ""))
    return [*rows, *_tables(one, other, tolerance)]


def _figure(key: str, one: Any, other: Any, tolerance: float) -> Row:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return key, str(one), str(other), one == other, "exact" if one == other else "differs"
    gap = 0.0 if one == other or (math.isnan(one) and math.isnan(other)) else abs(one - other)
    return key, f"{one:.6g}", f"{other:.6g}", gap <= tolerance, "exact" if gap == 0 else f"differs by {gap:.2g}"


def _tables(one: Run, other: Run, tolerance: float) -> Iterator[Row]:
    """Predictions, pooled features and the learning curve."""
    first, second = one.predictions, other.predictions
    if list(first["id"]) != list(second["id"]):
        yield "predictions.csv", f"{len(first)} rows", f"{len(second)} rows", False, "other utterances"
        return
    same = int((first["predicted"] == second["predicted"]).sum())
    yield _array("probabilities", probabilities(first), probabilities(second), tolerance)
    yield "answers", f"{len(first)} rows", f"{same} the same", same == len(first), ""
    features = [read_embeddings(entry.folder / "embeddings.npy", len(first)) for entry in (one, other)]
    yield _array("pooled features", features[0], features[1], tolerance)
    curves = [entry.history for entry in (one, other) if entry.history is not None]
    if len(curves) == 2:
        kept = [curve.drop(columns=["seconds", "peak_memory_mb"], errors="ignore").to_numpy(float) for curve in curves]
        yield _array("history.csv", kept[0], kept[1], tolerance)


def _array(name: str, one: np.ndarray, other: np.ndarray, tolerance: float) -> Row:
    shapes = [" x ".join(map(str, array.shape)) for array in (one, other)]
    if one.shape != other.shape:
        return name, shapes[0], shapes[1], False, "other shape"
    gap = float(np.abs(np.nan_to_num(one) - np.nan_to_num(other)).max(initial=0.0))
    return name, shapes[0], shapes[1], gap <= tolerance, "exact" if gap == 0 else f"within {gap:.2g}"


def _new_folder(original: Path, wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="ser-reproduce-"))
    folder = wanted.absolute()
    if folder.resolve().is_relative_to(original.resolve()):
        raise SerError(f"--folder {wanted} lies in the run itself, which is only read; give a folder elsewhere.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SerError(f"--folder {wanted} is not empty, expected a new folder; give another.")
    return folder
