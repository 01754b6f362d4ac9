"""The ``ser`` command: one function per subcommand, importing what it needs when it runs (quick ``--help``)."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from ser.errors import SerError

PARTLY_FAILED = 3  # exit code: every readable file was processed, but some were not readable
USE, PREPARE, RESULTS = "Use a model", "Prepare", "Look at results"

app = typer.Typer(
    help="Recognise emotions in recordings of speech, and examine the models that do it. "
    "[bold]ser train[/] and [bold]ser sweep[/] make them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Command = TypeVar("Command", bound=Callable[..., Any])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; bad input is one line on standard error and 1 (2 for bad usage)."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )
    for noisy in ("httpx", "matplotlib", "fontTools", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    words = list(sys.argv[1:] if argv is None else argv)
    commands = [found.callback.__name__ for found in app.registered_commands if found.callback]
    command = "".join(f"{word} " for word in words[:1] if word in commands)
    try:
        return int(app(words, prog_name="ser", standalone_mode=False) or 0)
    except SerError as error:
        message, code = str(error), 1
    except typer.TyperException as error:
        message, code = error.format_message(), error.exit_code
        if not message:  # the help was shown, since there was no command
            return code
        message = f"{message.rstrip('.')}; `ser {command}--help` shows what is expected."
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return code


def _command(panel: str, *examples: str) -> Callable[[Command], Command]:
    """Register a function as a subcommand, with examples below its help."""
    shown = "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{escape(example)}[/]" for example in examples)])
    return app.command(epilog=shown, rich_help_panel=panel)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"ser {version('ser-lab')}")
        raise typer.Exit


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} was given, expected a number above zero.")
    return value


class Form(StrEnum):
    """What ``ser export`` writes."""

    onnx = "onnx"
    hub = "hub"


class Quantization(StrEnum):
    """How ``ser export`` stores weights."""

    int8 = "int8"


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings as for ser train, such as data=iemocap.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="RUN",
        help="The model: run folder, .ckpt, exported folder or .onnx file; default: the one that comes with ser-lab.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="Folder or Hub id of the pretrained encoder, if it has moved; default: SER_ENCODER."
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda or cuda:1.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the encoder that the model names from the Hugging Face Hub.")
]
NoGate = Annotated[bool, typer.Option("--no-gate", help="Give silence and noise an emotion, too.")]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table: .csv or .json.")]
Shrinkage = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", callback=_positive, help="Weight of the training statistics beside a speaker's own."
    ),
]


@app.callback()
def ser(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself; the help text stands in ``app``."""


@_command(
    USE,
    "ser predict a.wav",
    "ser predict a.wav recordings/ --checkpoint RUN --output table.csv",
    "ser predict interview.mp3 --checkpoint RUN --window 5 --hop 1",
    "ser predict speakers/ --checkpoint RUN --speaker-per-folder --enrol 8",
)
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Audio files (or frames, of features=files), and folders of them."),
    ],
    checkpoint: Model = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    output: Output = None,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", callback=_positive, help="Predict every window of this length by itself."),
    ] = None,
    hop: Annotated[
        float, typer.Option(metavar="SECONDS", callback=_positive, help="From one window to the next.")
    ] = 1.0,
    batch_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", callback=_positive, help="Padded audio per batch.")
    ] = 60.0,
    no_gate: NoGate = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Threads that decode files ahead.")] = 2,
    speaker_per_folder: Annotated[
        bool,
        typer.Option("--speaker-per-folder", help="normalization=speaker: each folder holds the files of one speaker."),
    ] = False,
    enrol: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="With --speaker-per-folder: K files of each folder, evenly spaced, give its statistics.",
        ),
    ] = None,
    shrinkage: Shrinkage = 10.0,
    attention: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also draw the attention over each waveform, a PNG per file.")
    ] = None,
) -> int:
    """Recognise the emotion of audio files and folders.

    Files longer than 60 s get the mean over windows of 10 s. Exit code 3: some files could not be read.
    """
    from ser.encoders import FrameFiles  # noqa: PLC0415
    from ser.inference import screen  # noqa: PLC0415
    from ser.inference.files import collect_files, predict_frames, statistics_by_folder  # noqa: PLC0415
    from ser.inference.opening import open_model  # noqa: PLC0415
    from ser.inference.timeline import check_windows  # noqa: PLC0415
    from ser.inference.vad import best_gate  # noqa: PLC0415

    screen.check_table_name(output)
    if window is not None:
        check_windows(window, hop)
    if enrol is not None and not speaker_per_folder:
        raise SerError(f"--enrol {enrol} was given without --speaker-per-folder, which it belongs to; add that.")
    recognizer = open_model(checkpoint, encoder, device, allow_download)
    gate = None if no_gate or isinstance(recognizer.encoder, FrameFiles) else best_gate()
    if isinstance(recognizer.encoder, FrameFiles):
        found = predict_frames(recognizer, paths, batch_seconds)
        table, failures = found.table, found.failures
    else:
        files = collect_files(paths)
        statistics_of = (
            statistics_by_folder(recognizer, files, enrol, shrinkage) if speaker_per_folder else lambda path: None
        )
        table, failures = screen.recognise(recognizer, files, window, hop, batch_seconds, workers, statistics_of, gate)
    screen.show_predictions(table, recognizer, speaker_per_folder, gate)
    if output is not None:
        screen.write_table(output, table)
        typer.echo(f"{len(table)} rows in {output}")
    if attention is not None:
        screen.draw_attention(recognizer, files, attention)
        typer.echo(f"attention over the waveforms in {attention}")
    if failures:
        screen.show_failures(failures, len(failures) + table["file"].nunique())
    return PARTLY_FAILED if failures else 0


@_command(
    USE,
    "ser listen",
    "ser listen --checkpoint RUN --input talk.wav --realtime --window 3",
    "ser listen --checkpoint RUN --json > windows.jsonl",
)
def listen(
    checkpoint: Model = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    input: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An audio file in place of the microphone.")
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Read the file at the pace it plays.")] = False,
    microphone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Number or part of the name of the input device.")
    ] = None,
    window: Annotated[float, typer.Option(metavar="SECONDS", callback=_positive, help="Length of each window.")] = 5.0,
    hop: Annotated[
        float, typer.Option(metavar="SECONDS", callback=_positive, help="From one window to the next.")
    ] = 0.5,
    smoothing: Annotated[
        float, typer.Option(metavar="WEIGHT", help="Weight of earlier windows in the probabilities, 0 to below 1.")
    ] = 0.0,
    no_gate: NoGate = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON per window as it is answered.")
    ] = False,
    output: Output = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE.wav", help="Keep what is heard, and a line of JSON per window in FILE.jsonl."),
    ] = None,
) -> int:
    """Recognise the emotion of a microphone, or of a file as it plays; Ctrl-C ends."""
    from ser.inference import screen  # noqa: PLC0415
    from ser.inference.opening import open_model  # noqa: PLC0415
    from ser.inference.sources import file_source, microphone_source  # noqa: PLC0415
    from ser.inference.timeline import check_windows  # noqa: PLC0415
    from ser.inference.vad import best_gate  # noqa: PLC0415

    screen.check_table_name(output)
    check_windows(window, hop)
    recognizer = open_model(checkpoint, encoder, device, allow_download)
    if recognizer.encoder is not None:
        recognizer.encoder.load()  # a model of frames from files refuses here
    wanted = int(microphone) if microphone is not None and microphone.isdigit() else microphone
    source = microphone_source(wanted) if input is None else file_source(input, realtime)
    found = None if no_gate else best_gate()
    settings = {"window": window, "hop": hop, "smoothing": smoothing}
    screen.listen(recognizer, source, output, as_json, found, **settings, record=record)
    return 0


@_command(USE, "ser demo", "ser demo --checkpoint RUN --checkpoint RUN2 --port 8000")
def demo(
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Run folder, .ckpt, exported folder or .onnx file; repeat to choose among. Default: as ser predict.",
        ),
    ] = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to serve on; 127.0.0.1 is this computer only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port to serve on.")] = 7860,
    max_upload_mb: Annotated[
        float, typer.Option(metavar="MB", callback=_positive, help="Largest file that is accepted.")
    ] = 50.0,
    max_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", callback=_positive, help="Longest file that is accepted.")
    ] = 600.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name under which browsers may call a page open to the network; repeat."),
    ] = None,
) -> int:
    """Serve a web page that recognises a microphone, files and folders; Ctrl-C ends."""
    try:
        from ser.demo.server import Settings, serve  # noqa: PLC0415
    except ImportError as error:
        raise SerError(
            f"the page needs Gradio, which is not installed ({error.name}); pip install 'ser-lab[demo]'."
        ) from error
    from ser.inference.opening import PRETRAINED, fetches_encoders  # noqa: PLC0415

    models = checkpoint or [str(PRETRAINED)]
    fetch = allow_download or fetches_encoders(models, encoder)
    serve(Settings(models, encoder, device, host, port, max_upload_mb, max_seconds, allow_host or (), fetch))
    return 0


@_command(
    USE,
    "ser export --checkpoint RUN",
    "ser export --checkpoint RUN --quantize int8 --compare recordings/",
    "ser export --checkpoint RUN --with-encoder --output model.onnx",
    "ser export --checkpoint RUN --format hub",
)
def export(
    checkpoint: Model = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    form: Annotated[Form, typer.Option("--format", help="ONNX file, or folder for the Hugging Face Hub.")] = Form.onnx,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Store the weights of an ONNX file as 8-bit integers.")
    ] = None,
    with_encoder: Annotated[
        bool, typer.Option("--with-encoder", help="Put the encoder into the ONNX file: waveform in, probabilities out.")
    ] = False,
    compare: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Also compare the ONNX file with PyTorch on these.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File (onnx) or folder (hub); default: in the run folder.")
    ] = None,
) -> int:
    """Write a trained model as an ONNX file or as a Hugging Face folder."""
    from ser.inference.checkpoint import PRETRAINED, find_model  # noqa: PLC0415
    from ser.inference.opening import open_model  # noqa: PLC0415

    found = find_model(checkpoint or PRETRAINED)
    run_folder = found.parent.parent if found.parent.name == "checkpoints" else found.parent
    run_folder = Path() if found == PRETRAINED else run_folder
    recognizer = open_model(checkpoint and str(found), encoder, device, allow_download)
    if form == Form.onnx:
        from ser.inference.screen import export_and_compare  # noqa: PLC0415

        stem = "model-with-encoder" if with_encoder else "model"
        target = output or run_folder / f"{stem}{'.int8' * bool(quantize)}.onnx"
        export_and_compare(recognizer, target, with_encoder, bool(quantize), compare or [])
        return 0
    if quantize or with_encoder or compare:
        raise SerError("--quantize, --with-encoder and --compare belong to --format onnx; leave them out.")
    from ser.inference.hub import export_hub  # noqa: PLC0415

    typer.echo(f"model, description and card in {export_hub(recognizer, output or run_folder / 'hub', run_folder)}")
    return 0


@_command(PREPARE, "ser doctor", "ser doctor data=ravdess data.root=RAVDESS features=whisper_base --deep")
def doctor(
    overrides: Overrides = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every file, run the encoder, verify every checksum.")
    ] = False,
) -> int:
    """Check installation, corpus, encoder and cache, and say what to do.

    Exit code 1: a problem was found.
    """
    from ser.doctor import examine, show  # noqa: PLC0415

    return show(list(examine(overrides or [], deep)))


@_command(PREPARE, "ser extract data=iemocap data.root=IEMOCAP features=hubert_base", "ser extract experiment=iemocap")
def extract(overrides: Overrides = None) -> int:
    """Turn a corpus into cached frames, ahead of training; an interrupted extraction goes on where it stopped.

    Exit code 3: some recordings could not be read.
    """
    from ser.config import compose_config, instantiate  # noqa: PLC0415
    from ser.data.extraction import extract as extract_frames  # noqa: PLC0415
    from ser.inference.screen import show_failures  # noqa: PLC0415

    cfg = compose_config(overrides or [])
    corpus = instantiate(cfg, "data")
    result = extract_frames(corpus, instantiate(cfg, "features"), cfg.paths.cache, **cfg.extraction)
    if result.failures:
        show_failures(result.failures, len(corpus.utterances))
    return PARTLY_FAILED if result.failures else 0


_PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(rich_help_panel=PREPARE, context_settings=_PASSED_ON)
def train(context: typer.Context) -> None:
    """Train and test one fold; with -m several. Settings are KEY=VALUE; --help lists them."""
    from ser.launching import train as start  # noqa: PLC0415

    sys.argv = ["ser train", *context.args]  # Hydra reads the arguments of the program
    start()


@app.command(rich_help_panel=PREPARE, context_settings=_PASSED_ON)
def sweep(context: typer.Context) -> None:
    """Train variants on all folds with several seeds, then compare them; --help shows how."""
    from ser.launching import sweep as start  # noqa: PLC0415

    sys.argv = ["ser sweep", *context.args]
    start()


@_command(
    RESULTS,
    "ser evaluate --checkpoint RUN data=emodb data.root=EMODB map.calm=neutral",
    "ser evaluate --checkpoint RUN --manifest my.csv",
    "ser evaluate recordings/ --checkpoint RUN --output results",
)
def evaluate(
    checkpoint: Model = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE|FOLDER", help="data=..., or a folder whose names hold the emotions."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table of recordings: path, emotion, speaker; as data=manifest.")
    ] = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write; default: below outputs/evaluation.")
    ] = None,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Also test speakers that training has seen, and label the result.")
    ] = False,
    leave_out_seen: Annotated[
        bool, typer.Option("--leave-out-seen", help="Leave out speakers that training has seen.")
    ] = False,
) -> int:
    """Score a trained model on labelled recordings that it was not trained on.

    Writes the files of a run. Classes that only one side knows are left out, or mapped: map.calm=neutral.
    """
    from ser.evaluation.evaluate import evaluate as score  # noqa: PLC0415
    from ser.evaluation.evaluate import show_evaluation  # noqa: PLC0415
    from ser.evaluation.trained import Trained  # noqa: PLC0415
    from ser.inference.checkpoint import PRETRAINED  # noqa: PLC0415

    words = list(overrides or [])
    words = [f"data=folder data.root={word}" if "=" not in word else word for word in words]
    words = [part for word in words for part in word.split(" ", 1)]
    words += [] if manifest is None else ["data=manifest", f"data.manifest={manifest}"]
    if not any(word.startswith("data=") for word in words):
        raise SerError("no recordings were given, expected data=, --manifest FILE or a folder; for example data=emodb.")
    trained = Trained.of(checkpoint or PRETRAINED, encoder, device, allow_download)
    show_evaluation(score(trained, words, output, allow_seen=allow_seen, leave_out_seen=leave_out_seen))
    return 0


@_command(
    RESULTS,
    "ser cross --corpus 'data=ravdess data.root=RAVDESS' --corpus 'data=emodb data.root=EMODB' experiment=recommended",
)
def cross(
    corpus: Annotated[list[str], typer.Option(metavar="'data=...'", help="A corpus; two or more.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write; default: below outputs/cross.")
    ] = None,
) -> int:
    """Train on each of several corpora and test on each; what is finished is not repeated."""
    from ser.evaluation.cross import cross as fill  # noqa: PLC0415

    fill(corpus, overrides or [], output)
    return 0


@_command(RESULTS, "ser summary outputs/ravdess-whisper_base", "ser summary tables/ --baseline hubert")
def summary(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of runs, or of prediction tables.")],
    baseline: Annotated[str | None, typer.Option(metavar="VARIANT", help="What the others are compared with.")] = None,
) -> int:
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
    return 0


@_command(RESULTS, "ser report outputs/ravdess-whisper_base", "ser report RUN --output page.html")
def report(
    path: Annotated[str, typer.Argument(metavar="RUN_OR_SWEEP", help="Run folder, folder of runs, or .csv table.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; default: report.html in the folder.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="Of a sweep: what the others are compared with.")
    ] = None,
) -> int:
    """Write one self-contained HTML page about a run, a sweep or a prediction table."""
    from ser.evaluation.report.report import write_report  # noqa: PLC0415

    typer.echo(str(write_report(path, output, baseline)))
    return 0


@_command(RESULTS, "ser compare outputs/ravdess-logmel/gru outputs/ravdess-logmel/enhanced_gru")
def compare(
    a: Annotated[str, typer.Argument(help="What B is compared with: run folder, runs of one variant, or .csv table.")],
    b: Annotated[str, typer.Argument(help="The other result.")],
    allow_different_splits: Annotated[
        bool, typer.Option("--allow-different-splits", help="Compare results that were tested on different splits.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: comparison.json in B, or beside it if it is a table.")
    ] = None,
) -> int:
    """Compare two results, with paired tests, and write comparison.json."""
    from ser.evaluation.report.render import compare_and_show  # noqa: PLC0415

    compare_and_show(a, b, allow_different_splits, output)
    return 0


@_command(RESULTS, "ser probe outputs/ravdess-logmel")
def probe(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or a folder of runs.")],
) -> int:
    """Measure how much the features of finished runs tell about the speaker, and write leakage.json."""
    from ser.evaluation.report.render import probe_and_show  # noqa: PLC0415

    probe_and_show(path)
    return 0


@_command(RESULTS, "ser enrol outputs/ravdess-whisper_base/recommended_speaker", "ser enrol RUN --shrinkage 3")
def enrol(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or a folder of runs of one variant.")],
    shrinkage: Shrinkage = 10.0,
    draws: Annotated[int, typer.Option(min=1, metavar="N", help="Random choices of the utterances per k.")] = 10,
) -> int:
    """Measure how many unlabelled utterances of a new speaker a model needs; of runs with normalization=speaker.

    Writes enrolment.csv and enrolment.png into RUN.
    """
    from ser.evaluation.enrolment import enrol as measure  # noqa: PLC0415

    measure(path, shrinkage, draws)
    return 0


@_command(RESULTS, "ser curve outputs/ravdess-whisper_base")
def curve(
    path: Annotated[str, typer.Argument(metavar="SWEEP", help="Folder of runs of different train_speakers= or so.")],
) -> int:
    """Show UAR against the training speakers and utterances of finished runs.

    The runs come from ser sweep variant=A,B train_speakers=4,8,12 (or train_fraction=0.25,0.5). Writes curve.csv and
    curve.png into SWEEP.
    """
    from ser.evaluation.curve import curve as measure  # noqa: PLC0415

    measure(path)
    return 0


@_command(RESULTS, "ser figures outputs/ravdess-logmel", "ser figures RUN --format pdf --format png")
def figures(
    path: Annotated[str, typer.Argument(metavar="RUN_OR_SWEEP", help="Run folder, or folder of runs.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png (default), pdf or svg; may be given several times.")
    ] = None,
) -> int:
    """Draw the figures of finished runs again from their tables."""
    from ser.evaluation.figures import write_figures  # noqa: PLC0415
    from ser.evaluation.runs import find_runs  # noqa: PLC0415

    for entry in find_runs(path):
        write_figures(entry.folder, formats=formats or ["png"])
        typer.echo(str(entry.folder / "figures"))
    return 0


@_command(RESULTS, "ser reproduce outputs/ravdess-logmel/gru/fold1/seed1", "ser reproduce RUN --folder again")
def reproduce(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run; it is only read.")],
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="New folder for the second run; default: a temporary one."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="DIFFERENCE", help="Largest difference that counts as agreement.")
    ] = 1e-4,
) -> int:
    """Carry out a finished run again and compare every figure with the first.

    Exit code 1: they differ; the temporary folder is then kept.
    """
    from ser.evaluation.reproduce import reproduce as carry_out_again  # noqa: PLC0415

    return 0 if carry_out_again(path, folder, tolerance) else 1


if __name__ == "__main__":
    sys.exit(main())
