"""Subcommands that look at results: from evaluate to reproduce.

Each imports what it needs when it runs, so that ``--help`` is quick.
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import track

from ser.cli.app import (
    RESULTS,
    AllowDownload,
    Device,
    Encoder,
    Model,
    Overrides,
    Shrinkage,
    argument,
    command,
    complete_override,
    flag,
    option,
)
from ser.errors import SerError

log = logging.getLogger(__name__)


@command(
    RESULTS,
    "ser evaluate --checkpoint RUN data=emodb data.root=EMODB map.calm=neutral",
    "ser evaluate --checkpoint RUN --manifest my.csv",
    "ser evaluate recordings/ --checkpoint RUN --output results",
)
def evaluate(
    checkpoint: Model = None,
    overrides: Annotated[
        list[str] | None,
        argument(
            "KEY=VALUE|FOLDER", "data=..., or a folder whose names hold the emotions.", autocompletion=complete_override
        ),
    ] = None,
    manifest: Annotated[
        Path | None, option("FILE", "Table of recordings: path, emotion, speaker; as data=manifest.")
    ] = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    output: Annotated[Path | None, option("FOLDER", "Where to write; default: below outputs/evaluation.")] = None,
    allow_seen: Annotated[
        bool, flag("--allow-seen", "Also test speakers that training has seen, and label the result.")
    ] = False,
    leave_out_seen: Annotated[bool, flag("--leave-out-seen", "Leave out speakers that training has seen.")] = False,
) -> None:
    """Score a trained model on labelled recordings that it was not trained on.

    Writes the files of a run. Classes that only one side knows are left out, or mapped: map.calm=neutral.
    """
    from ser.cli.train import refuse_missing_folder  # noqa: PLC0415
    from ser.config import compose_config  # noqa: PLC0415

    words: list[str] = []
    for word in overrides or []:
        words += [word] if "=" in word else ["data=folder", f"data.root={word}"]
    words += [] if manifest is None else ["data=manifest", f"data.manifest={manifest}"]
    if not any(word.startswith("data=") for word in words):
        raise SerError("no recordings were given, expected data=, --manifest FILE or a folder; for example data=emodb.")
    refuse_missing_folder(compose_config([word for word in words if word.lstrip("+").startswith("data")]))
    from ser.inference.checkpoint import PRETRAINED  # noqa: PLC0415
    from ser.trained.seen import Trained  # noqa: PLC0415

    trained = Trained.of(checkpoint or PRETRAINED, encoder, device, allow_download)
    from ser.trained.evaluate import evaluate as score  # noqa: PLC0415  bad input is told before Lightning loads
    from ser.trained.evaluate import show_evaluation  # noqa: PLC0415

    show_evaluation(score(trained, words, output, allow_seen=allow_seen, leave_out_seen=leave_out_seen))


@command(RESULTS, "ser cross --corpus data=synthetic --corpus 'data=ravdess data.root=RAVDESS'")
def cross(
    corpus: Annotated[list[str], option("'data=...'", "A corpus; two or more.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, option("FOLDER", "Where to write; default: below outputs/cross.")] = None,
) -> None:
    """Train on each of several corpora and test on each; what is finished is not repeated."""
    from ser.trained.cross import cross as fill  # noqa: PLC0415

    fill(corpus, overrides or [], output)


@command(RESULTS, "ser summary outputs/ravdess-whisper_base", "ser summary tables/ --baseline hubert")
def summary(
    path: Annotated[Path, argument("FOLDER", "Folder of runs, or of prediction tables.")],
    baseline: Annotated[str | None, option("VARIANT", "What the others are compared with.")] = None,
) -> None:
    """Compare the variants in a folder: scores, intervals, paired tests; writes summary.csv, .json and .md.

    Tables such as seed3_fold2.csv in one folder are one variant, named after the folder.
    """
    from ser.evaluation.report.render import show_summary, write_summary  # noqa: PLC0415
    from ser.evaluation.runs import scan_runs  # noqa: PLC0415
    from ser.evaluation.summary import summarize  # noqa: PLC0415

    runs, left_out = scan_runs(path)
    found = summarize(runs, baseline, left_out)
    show_summary(found)
    write_summary(found, path if path.is_dir() else path.parent)


@command(RESULTS, "ser report outputs/ravdess-whisper_base", "ser report RUN --output page.html")
def report(
    path: Annotated[str, argument("RUN_OR_SWEEP", "Run folder, folder of runs, or .csv table.")],
    output: Annotated[Path | None, option("FILE", "The page; default: report.html in the folder.")] = None,
    baseline: Annotated[str | None, option("VARIANT", "Of a sweep: what the others are compared with.")] = None,
) -> None:
    """Write one self-contained HTML page about a run, a sweep or a prediction table."""
    from ser.evaluation.report.report import write_report  # noqa: PLC0415

    typer.echo(str(write_report(path, output, baseline)))


@command(RESULTS, "ser compare outputs/ravdess-logmel/gru outputs/ravdess-logmel/enhanced_gru")
def compare(
    a: Annotated[str, argument("A", "What B is compared with: run folder, runs of one variant, or .csv table.")],
    b: Annotated[str, argument("B", "The other result.")],
    allow_different_splits: Annotated[
        bool, flag("--allow-different-splits", "Compare results that were tested on different splits.")
    ] = False,
    output: Annotated[
        Path | None, option("FILE", "Default: comparison.json in B, or beside it if it is a table.")
    ] = None,
) -> None:
    """Compare two results, with paired tests, and write comparison.json."""
    from ser.evaluation.report.render import compare_and_show  # noqa: PLC0415

    compare_and_show(a, b, allow_different_splits, output)


@command(RESULTS, "ser probe outputs/ravdess-logmel", "ser probe RUN --of probabilities")
def probe(
    path: Annotated[str, argument("RUN", "Run folder, or a folder of runs.")],
    of: Annotated[
        Literal["features", "probabilities", "emotion"],
        option("WHAT", "features, or what predictions.csv says: probabilities, or the predicted emotion alone."),
    ] = "features",
) -> None:
    """Measure how much the features of finished runs tell about the speaker, and write leakage.json."""
    from ser.evaluation.report.render import probe_and_show  # noqa: PLC0415

    probe_and_show(path, of)


@command(RESULTS, "ser enrol outputs/ravdess-whisper_base/recommended_speaker", "ser enrol RUN --shrinkage 3")
def enrol(
    path: Annotated[str, argument("RUN", "Run folder, or a folder of runs of one variant.")],
    shrinkage: Shrinkage = 10.0,
    draws: Annotated[int, option("N", "Random choices of the utterances per k.", min=1)] = 10,
) -> None:
    """Measure how many unlabelled utterances of a new speaker a model needs; of runs with normalization=speaker.

    Writes enrolment.csv and enrolment.png into RUN.
    """
    from ser.trained.enrolment import enrol as measure  # noqa: PLC0415

    measure(path, shrinkage, draws)


@command(RESULTS, "ser curve outputs/ravdess-whisper_base")
def curve(path: Annotated[str, argument("SWEEP", "Folder of runs of different train_speakers= or so.")]) -> None:
    """Show UAR against the training speakers and utterances of finished runs.

    The runs come from ser sweep variant=A,B train_speakers=4,8,12 (or train_fraction=0.25,0.5). Writes curve.csv and
    curve.png into SWEEP.
    """
    from ser.evaluation.figures.training import curve as measure  # noqa: PLC0415

    measure(path)


@command(RESULTS, "ser figures outputs/ravdess-logmel", "ser figures RUN --format pdf --format png")
def figures(
    path: Annotated[str, argument("RUN_OR_SWEEP", "Run folder, or folder of runs.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png (default), pdf or svg; may be given several times.")
    ] = None,
) -> None:
    """Draw the figures of finished runs again from their tables, and of a sweep those that compare its variants.

    They go into figures/ of each run; what compares the variants, into figures/ of the folder given.
    """
    from ser.evaluation.figures import write_figures, write_sweep_figures  # noqa: PLC0415
    from ser.evaluation.report.report import in_order_of_summary  # noqa: PLC0415
    from ser.evaluation.runs import find_runs  # noqa: PLC0415

    found = find_runs(path)
    if len(found) > 1 and Path(path).is_dir():
        try:
            sweep = in_order_of_summary(Path(path), found)
        except SerError as error:  # such as runs on corpora with different emotions: each is drawn all the same
            log.warning("nothing compares the variants: %s", error)
        else:
            write_sweep_figures(Path(path), *sweep, formats or ["png"])
            typer.echo(str(Path(path) / "figures"))
    for entry in track(found, "drawing", console=Console(stderr=True), transient=True):
        write_figures(entry.folder, formats=formats or ["png"])
    typer.echo("\n".join(str(entry.folder / "figures") for entry in found))


@command(RESULTS, "ser reproduce outputs/ravdess-logmel/gru/fold1/seed1", "ser reproduce RUN --folder again")
def reproduce(
    path: Annotated[str, argument("RUN", "Folder of a finished run; it is only read.")],
    folder: Annotated[Path | None, option("FOLDER", "New folder for the second run; default: a temporary one.")] = None,
    tolerance: Annotated[float, option("DIFFERENCE", "Largest difference that counts as agreement.")] = 1e-4,
) -> int:
    """Carry out a finished run again and compare every figure with the first.

    Exit code 1: they differ; the temporary folder is then kept.
    """
    from ser.trained.reproduce import reproduce as carry_out_again  # noqa: PLC0415

    return 0 if carry_out_again(path, folder, tolerance) else 1
