"""Subcommands that use a model: predict, listen, demo and export.

Each imports what it needs when it runs, so that ``--help`` is quick.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ser import fast_imports
from ser.cli.app import (
    PARTLY_FAILED,
    USE,
    AllowDownload,
    Device,
    Encoder,
    Model,
    NoGate,
    Output,
    Shrinkage,
    command,
    may_fetch_encoders,
    open_model,
    positive,
)
from ser.errors import SerError


class Form(StrEnum):
    """What ``ser export`` writes."""

    onnx = "onnx"
    hub = "hub"


class Quantization(StrEnum):
    """How ``ser export`` stores weights."""

    int8 = "int8"


@command(
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
        typer.Option(metavar="SECONDS", callback=positive, help="Predict every window of this length by itself."),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", callback=positive, help="With --window: from one to the next; default: 1."),
    ] = None,
    batch_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", callback=positive, help="Padded audio per batch.")
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
    with fast_imports():
        from ser.encoders import FrameFiles  # noqa: PLC0415
        from ser.inference import screen  # noqa: PLC0415
        from ser.inference.files import collect_files, predict_frames, statistics_by_folder  # noqa: PLC0415
        from ser.inference.timeline import check_windows  # noqa: PLC0415
        from ser.inference.vad import best_gate  # noqa: PLC0415

    screen.check_table_name(output)
    if window is None and hop is not None:
        raise SerError(f"--hop {hop:g} was given without --window, which it belongs to; add that.")
    hop = 1.0 if hop is None else hop
    if window is not None:
        check_windows(window, hop)
    if enrol is not None and not speaker_per_folder:
        raise SerError(f"--enrol {enrol} was given without --speaker-per-folder, which it belongs to; add that.")
    recognizer = open_model(checkpoint, encoder, device, allow_download)
    gate = None if no_gate or isinstance(recognizer.encoder, FrameFiles) else best_gate()
    if isinstance(recognizer.encoder, FrameFiles):
        given = {"--window": window, "--speaker-per-folder": speaker_per_folder, "--attention": attention}
        if flags := [flag for flag, value in given.items() if value]:
            raise SerError(f"{', '.join(flags)} needs audio, but this model takes frames from files; leave it out.")
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


@command(
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
    window: Annotated[float, typer.Option(metavar="SECONDS", callback=positive, help="Length of each window.")] = 5.0,
    hop: Annotated[
        float, typer.Option(metavar="SECONDS", callback=positive, help="From one window to the next.")
    ] = 0.5,
    smoothing: Annotated[
        float,
        typer.Option(
            metavar="WEIGHT",
            help="Weight of earlier windows in the probabilities, 0 to below 1; more of it shows fewer changes, later. "
            "The most probable emotion is shown always: there is no hysteresis.",
        ),
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
    with fast_imports():
        from ser.inference.listening import listen as show  # noqa: PLC0415
        from ser.inference.screen import check_table_name  # noqa: PLC0415
        from ser.inference.sources import file_source, microphone_source  # noqa: PLC0415
        from ser.inference.timeline import check_windows  # noqa: PLC0415
        from ser.inference.vad import best_gate  # noqa: PLC0415

    check_table_name(output)
    check_windows(window, hop)
    recognizer = open_model(checkpoint, encoder, device, allow_download)
    if recognizer.encoder is not None:
        recognizer.encoder.load()  # a model of frames from files refuses here
    wanted = int(microphone) if microphone is not None and microphone.isdigit() else microphone
    source = microphone_source(wanted) if input is None else file_source(input, realtime)
    found = None if no_gate else best_gate()
    settings = {"window": window, "hop": hop, "smoothing": smoothing}
    show(recognizer, source, output, as_json, found, **settings, record=record)
    return 0


@command(USE, "ser demo", "ser demo --checkpoint RUN --checkpoint RUN2 --port 8000")
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
        float, typer.Option(metavar="MB", callback=positive, help="Largest file that is accepted.")
    ] = 50.0,
    max_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", callback=positive, help="Longest file that is accepted.")
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
    from ser.inference.checkpoint import PRETRAINED  # noqa: PLC0415

    models = checkpoint or [str(PRETRAINED)]
    fetch = allow_download or may_fetch_encoders(models, encoder)
    serve(Settings(models, encoder, device, host, port, max_upload_mb, max_seconds, allow_host or (), fetch))
    return 0


@command(
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
