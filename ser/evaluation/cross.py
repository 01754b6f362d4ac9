"""``ser cross``: models trained on each of several corpora, tested on each of them."""

import hashlib
import logging
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich import get_console

from ser.config import compose_config, instantiate
from ser.data.corpus import Corpus
from ser.errors import SerError
from ser.evaluation.evaluate import evaluate
from ser.evaluation.figures.run import draw_matrix
from ser.evaluation.figures.style import new_figure, save_figure, styled
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import cross_table
from ser.evaluation.runs import Run, load_run, pooled, warnings_of
from ser.evaluation.significance import bootstrap_intervals
from ser.evaluation.trained import Trained, tested_name
from ser.io import read_json, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Side:
    """One corpus of the matrix: its name, the overrides that choose it, and its utterances of the shared classes."""

    name: str
    words: list[str]
    corpus: Corpus


def cross(corpora: Sequence[str], overrides: Sequence[str], output: Path | None = None) -> pd.DataFrame:
    """Train on each corpus and test on each, print the matrix, and write matrix.csv and matrix.png.

    On the diagonal stands the cross-validated score; elsewhere each fold's model is tested on all of the other corpus.
    Classes that not all corpora have are left out. What is finished is not repeated.

    Each of ``corpora`` is the overrides of one: ``data=ravdess data.root=/path``. The other ``overrides`` are those of
    the training, with ``fold=1,2`` for fewer than all folds. Without ``output`` it is ``outputs/cross/<corpora>``.

    Returns:
        One row per pair: ``trained, tested, uar, low, high, wa, utterances, speakers, models``.

    Raises:
        SerError: fewer than two corpora or shared classes, two corpora of one name, or a training fails.
    """
    folds = [word.partition("=")[2] for word in overrides if word.startswith("fold=")]
    others = [word for word in overrides if not word.startswith("fold=")]
    sides = _sides(corpora, others)
    outputs = Path(compose_config([*sides[0].words, *others]).paths.outputs)
    folder = output or outputs / "cross" / "-".join(side.name for side in sides)
    rows = []
    for side in sides:
        trained = list(_train(side, others, folds[0] if folds else ""))
        for other in sides:
            runs = trained if other is side else [_tested(run, side, other, folder) for run in trained]
            rows.append(_row(side.name, other.name, runs))
            log.info("trained on %s, tested on %s: UAR %.1f", side.name, other.name, 100 * rows[-1]["uar"])
    matrix = pd.DataFrame(rows)
    write_text(folder / "matrix.csv", matrix.to_csv(index=False))
    save_figure(heat_map(matrix, "; ".join(warnings_of(trained))), folder / "matrix")
    show([cross_table(matrix)])
    get_console().print(f"matrix.csv, matrix.png and every prediction table in {folder}", soft_wrap=True, markup=False)
    return matrix


def _sides(corpora: Sequence[str], others: Sequence[str]) -> list[Side]:
    """Every corpus, reduced to the classes that all have."""
    if len(corpora) < 2:
        raise SerError(f"{len(corpora)} corpora were given, expected two or more; repeat --corpus 'data=NAME ...'.")
    found: list[tuple[str, list[str], Corpus]] = []
    for text in corpora:
        words = shlex.split(text)
        cfg = compose_config([*words, *others])
        corpus: Corpus = instantiate(cfg, "data")
        found.append((tested_name(cfg, corpus), words, corpus))
    names = [name for name, _, _ in found]
    if len(set(names)) < len(names):
        raise SerError(f"two corpora are called {max(names, key=names.count)}, expected different names; rename one.")
    shared = [emotion for emotion in found[0][2].emotions if all(emotion in corpus.emotions for _, _, corpus in found)]
    if len(shared) < 2:
        known = "; ".join(f"{name}: {', '.join(corpus.emotions)}" for name, _, corpus in found)
        raise SerError(f"the corpora share {len(shared)} classes ({known}), expected two or more; set data.emotions.")
    sides = []
    for name, typed, corpus in found:
        words = typed
        if left_out := [emotion for emotion in corpus.emotions if emotion not in shared]:
            log.info("%s: left out %s, which not all corpora have", name, ", ".join(left_out))
            words = [word for word in typed if not word.startswith("data.emotions=")]
            words.append(f"data.emotions=[{','.join(shared)}]")
        sides.append(Side(name, words, instantiate(compose_config([*words, *others]), "data")))
    return sides


def _train(side: Side, overrides: Sequence[str], folds: str) -> Iterator[Run]:
    """The finished run of each fold, trained where it is not there yet."""
    from ser.training import run as carry_out  # noqa: PLC0415  it imports the figures, which import this package

    count = instantiate(compose_config([*side.words, *overrides]), "protocol").folds(side.corpus)
    for fold in folds.split(",") if folds else range(1, count + 1):
        cfg = compose_config([*side.words, *overrides, f"fold={fold}", "resume=true", "figures=false"])
        carry_out(cfg)
        yield load_run(cfg.paths.run)


def _tested(run: Run, side: Side, other: Side, folder: Path) -> Run:
    """The evaluation of a run on another corpus, reused where model and labels are the same."""
    place = folder / f"{side.name}-on-{other.name}" / f"fold{run.fold}" / f"seed{run.seed}"
    checkpoint = run.folder / "checkpoints" / "best.ckpt"
    kept = read_json(place / "metrics.json") or {}
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
    if (kept.get("checkpoint"), kept.get("labels")) == (digest, other.corpus.fingerprint()):
        return load_run(place)
    if not kept:  # what a killed evaluation left; the folder is the matrix's own
        shutil.rmtree(place, ignore_errors=True)
    trained = Trained.of(checkpoint)
    trained.name["variant"] = f"{side.name}-on-{other.name}"
    paths = [f"paths.{key}={trained.paths[key]}" for key in ("cache", "data") if key in trained.paths]
    return evaluate(trained, [*paths, *other.words], place)


def _row(trained: str, tested: str, runs: Sequence[Run]) -> dict[str, Any]:
    table = pooled(runs)
    intervals = bootstrap_intervals(table, ("uar", "wa"))
    uar, wa = intervals["uar"], intervals["wa"]
    facts: dict[str, Any] = {"trained": trained, "tested": tested, "uar": uar.estimate, "low": uar.low}
    facts |= {"high": uar.high, "wa": wa.estimate, "utterances": table["id"].nunique()}
    return facts | {"speakers": table["speaker"].nunique(), "models": len(runs)}


@styled
def heat_map(matrix: pd.DataFrame, note: str = "") -> Figure:
    """UAR of each pair in percent; rows what was trained on, columns what was tested on."""
    names = list(dict.fromkeys(matrix["trained"]))
    values = matrix.pivot(index="trained", columns="tested", values="uar").loc[names, names].to_numpy()
    side = max(3.2, 1.1 * len(names) + 1.6)
    drawn = new_figure(side + 0.8, side, "UAR across corpora (%)", note)
    axes = drawn.subplots()
    draw_matrix(axes, values, [[f"{100 * value:.1f}" for value in row] for row in np.asarray(values)], names)
    axes.set(xlabel="tested on", ylabel="trained on")
    return drawn
