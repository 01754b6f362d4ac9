"""``ser cross``: models trained on each of several corpora, tested on each of them."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from rich import get_console

from ser.config import compose_config, instantiate, refuse_processes
from ser.data.corpus import Corpus
from ser.emotions import common_name
from ser.errors import SerError
from ser.evaluation.figures import style
from ser.evaluation.figures.run import draw_matrix
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import cross_table
from ser.evaluation.runs import Run, load_run, pooled, warnings_of
from ser.evaluation.significance import bootstrap_intervals
from ser.io import read_json, write_text
from ser.trained.evaluate import evaluate
from ser.trained.seen import SeenSpeakersError, Trained, digest_of, tested_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Side:
    """One corpus of the matrix: its name, the overrides that choose it, and its utterances of the shared classes."""

    name: str
    overrides: list[str]
    corpus: Corpus


def cross(corpora: Sequence[str], overrides: Sequence[str], output: Path | None = None) -> pd.DataFrame:
    """Train on each corpus and test on each, print the matrix, and write matrix.csv and matrix.png.

    On the diagonal stands the cross-validated score; elsewhere each fold's model is tested on all of the other corpus.
    Classes that not all corpora have are left out. What is finished is not repeated.

    Each of ``corpora`` is the overrides of one: ``data=ravdess data.root=/path``. The other ``overrides`` are those of
    the training, with ``fold=1,2`` for fewer than all folds. Without ``output`` it is
    ``outputs/cross/<corpora>-<features>/<variant>/seed<seed>``.

    Returns:
        One row per pair: ``trained, tested, uar, low, high, wa, utterances, speakers, models``.

    Raises:
        SerError: fewer than two corpora or shared classes, two corpora of one name, or a training fails.
    """
    folds = next((one.partition("=")[2] for one in overrides if one.startswith("fold=")), "")
    others = [one for one in overrides if not one.startswith("fold=")]
    sides = _sides(corpora, others)
    cfg = compose_config([*sides[0].overrides, *others])
    name = "-".join([*(side.name for side in sides), HydraConfig.get().runtime.choices["features"]])
    folder = (
        output or Path(cfg.paths.outputs) / "cross" / name / Path(cfg.paths.run).parents[1].name / f"seed{cfg.seed}"
    )
    if folder.is_file():
        raise SerError(f"--output {folder} is a file, expected a folder, new or of an earlier matrix; name another.")
    rows = []
    for side in sides:
        trained = list(_train(side, others, folds))
        for other in sides:
            runs = trained if other is side else [_tested(run, side, other, folder) for run in trained]
            rows.append(_row(side.name, other.name, runs))
            log.info("trained on %s, tested on %s: UAR %.1f%%", side.name, other.name, 100 * rows[-1]["uar"])
    matrix = pd.DataFrame(rows)
    write_text(folder / "matrix.csv", matrix.to_csv(index=False))
    style.save_figure(heat_map(matrix, "; ".join(warnings_of(trained))), folder / "matrix")
    show([cross_table(matrix)])
    get_console().print(f"matrix.csv, matrix.png and every prediction table in {folder}", soft_wrap=True, markup=False)
    return matrix


def _sides(corpora: Sequence[str], others: Sequence[str]) -> list[Side]:
    """Every corpus, reduced to the classes that all have."""
    if len(corpora) < 2:
        raise SerError(f"{len(corpora)} corpora were given, expected two or more; repeat --corpus 'data=NAME ...'.")
    if not all(text.strip() for text in corpora):
        raise SerError("--corpus is empty, expected its settings; for example --corpus 'data=ravdess data.root=DIR'.")
    sides = [_side(shlex.split(text), others) for text in corpora]
    names = [side.name for side in sides]
    if len(set(names)) < len(names):
        raise SerError(f"two corpora are called {max(names, key=names.count)}, expected different names; rename one.")
    known = [{common_name(name) for name in side.corpus.emotions} for side in sides]
    shared = [
        name for name in dict.fromkeys(map(common_name, sides[0].corpus.emotions)) if all(name in one for one in known)
    ]
    if len(shared) < 2:
        given = "; ".join(f"{side.name}: {', '.join(side.corpus.emotions)}" for side in sides)
        raise SerError(f"the corpora share {len(shared)} classes ({given}), expected two or more; set data.emotions.")
    for place, side in enumerate(sides):
        if left_out := [emotion for emotion in side.corpus.emotions if common_name(emotion) not in shared]:
            log.info("%s: left out %s, which not all corpora have", side.name, ", ".join(left_out))
            kept = [override for override in side.overrides if not override.startswith("data.emotions=")]
            own = sorted(set(side.corpus.emotions) - set(left_out), key=lambda name: shared.index(common_name(name)))
            sides[place] = _side([*kept, f"data.emotions=[{','.join(own)}]"], others)
    return sides


def _side(overrides: list[str], others: Sequence[str]) -> Side:
    cfg = compose_config([*overrides, *others])
    refuse_processes(cfg, "ser cross")
    corpus: Corpus = instantiate(cfg, "data")
    return Side(tested_name(cfg, corpus), overrides, corpus)


def _train(side: Side, overrides: Sequence[str], folds: str) -> Iterator[Run]:
    """The finished run of each fold, trained where it is not there yet."""
    from ser.training import run as carry_out  # noqa: PLC0415  it imports the figures, which import this package

    count = instantiate(compose_config([*side.overrides, *overrides]), "protocol").folds(side.corpus)
    for fold in folds.split(",") if folds else range(1, count + 1):
        cfg = compose_config([*side.overrides, *overrides, f"fold={fold}", "resume=true", "figures=false"])
        carry_out(cfg)
        yield load_run(cfg.paths.run)


def _tested(run: Run, side: Side, other: Side, folder: Path) -> Run:
    """The evaluation of a run on another corpus, reused where model and labels are the same."""
    place = folder / f"{side.name}-on-{other.name}" / f"fold{run.fold}" / f"seed{run.seed}"
    checkpoint = run.folder / "checkpoints" / "best.ckpt"
    kept = read_json(place / "metrics.json") or {}
    if (kept.get("checkpoint"), kept.get("labels")) == (digest_of(checkpoint), other.corpus.fingerprint()):
        return load_run(place)
    trained = Trained.of(checkpoint)
    trained.name["variant"] = f"{side.name}-on-{other.name}"
    paths = [f"paths.{key}={trained.paths[key]}" for key in ("cache", "data") if key in trained.paths]
    try:
        return evaluate(trained, [*paths, *other.overrides], place)
    except SeenSpeakersError as error:
        raise SerError(
            f"{str(error).partition(';')[0]}; corpora of one matrix share no speakers: leave one of them out, or name "
            "others by data.speakers."
        ) from None


def _row(trained: str, tested: str, runs: Sequence[Run]) -> dict[str, Any]:
    table = pooled(runs)
    intervals = bootstrap_intervals(table)
    uar, low, high = intervals["uar"]
    scored = {"trained": trained, "tested": tested, "uar": uar, "low": low, "high": high}
    sizes = {"utterances": table["id"].nunique(), "speakers": table["speaker"].nunique(), "models": len(runs)}
    return {**scored, "wa": intervals["wa"].estimate, **sizes}


@style.styled
def heat_map(matrix: pd.DataFrame, note: str = "") -> Figure:
    """UAR of each pair in percent; rows what was trained on, columns what was tested on."""
    names = list(dict.fromkeys(matrix["trained"]))
    values = matrix.pivot(index="trained", columns="tested", values="uar").loc[names, names].to_numpy()
    side = max(3.2, 1.1 * len(names) + 1.6)
    drawn = style.new_figure(side + 0.8, side, "UAR across corpora (%)", note)
    axes = drawn.subplots()
    draw_matrix(axes, np.asarray(values), names)
    axes.set(xlabel="tested on", ylabel="trained on")
    return drawn
