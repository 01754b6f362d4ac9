"""Subcommands that use a model: predict, listen, demo and export.

Each imports what it needs when it runs, so that ``--help`` is quick.
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

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
    argument,
    command,
    flag,
    may_fetch_encoders,
    open_model,
    option,
    positive,
)
from ser.errors import INTERRUPTED, SerError

log = logging.getLogger(__name__)


@command(
    USE,
    "ser predict a.wav",
    "ser predict a.wav recordings/ --checkpoint RUN --output table.csv",
    "ser predict interview.mp3 --checkpoint RUN --window 5 --hop 1",
    "ser predict speakers/ --checkpoint RUN --speaker-per-folder --enrol 8",
)
def predict(
    paths: Annotated[list[Path], argument("PATH", "Audio files (or frames, of features=files), and folders of them.")],
    checkpoint: Model = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    output: Output = None,
    window: Annotated[
        float | None, option("SECONDS", "Predict every window of this length by itself.", callback=positive)
    ] = None,
    hop: Annotated[
        float | None, option("SECONDS", "With --window: from one to the next; default: 1 or less.", callback=positive)
    ] = None,
    batch_seconds: Annotated[float, option("SECONDS", "Padded audio per batch.", callback=positive)] = 60.0,
    no_gate: NoGate = False,
    workers: Annotated[int, option("N", "Threads that decode files ahead.", min=1)] = 2,
    speaker_per_folder: Annotated[
        bool, flag("--speaker-per-folder", "normalization=speaker: each folder holds the files of one speaker.")
    ] = False,
    enrol: Annotated[
        int | None,
        option("K", "With --speaker-per-folder: K files of each folder, evenly spaced, give its statistics.", min=1),
    ] = None,
    shrinkage: Shrinkage = 10.0,
    attention: Annotated[
        Path | None, option("FOLDER", "Also draw the attention over each waveform, a PNG per file.")
    ] = None,
) -> int:
    """Recognise the emotion of audio files and folders.

    Files longer than 60 s get the mean over windows of 10 s. Exit code 3: some files could not be read. After Ctrl-C
    the files done by then are shown and written.
    """
    with fast_imports():
        from ser.encoders import FrameFiles  # noqa: PLC0415
        from ser.inference import screen  # noqa: PLC0415
        from ser.inference.files import check_paths, collect_files, predict_frames, statistics_by_folder  # noqa: PLC0415
        from ser.inference.timeline import check_windows  # noqa: PLC0415
        from ser.inference.vad import best_gate  # noqa: PLC0415

    screen.check_table_name(output)
    if window is None and hop is not None:
        raise SerError(f"--hop {hop:g} was given without --window, which it belongs to; add that.")
    hop = min(1.0, window or 1.0) if hop is None else hop
    if window is not None:
        check_windows(window, hop)
    if enrol is not None and not speaker_per_folder:
        raise SerError(f"--enrol {enrol} was given without --speaker-per-folder, which it belongs to; add that.")
    check_paths(paths)  # before a model is loaded, or an encoder fetched
    recognizer = open_model(checkpoint, encoder, device, allow_download)
    files: list[Path] = []
    gate = None if no_gate or isinstance(recognizer.encoder, FrameFiles) else best_gate()
    if isinstance(recognizer.encoder, FrameFiles):
        given = {"--window": window, "--speaker-per-folder": speaker_per_folder, "--attention": attention}
        if flags := [flag for flag, value in given.items() if value]:
            raise SerError(f"{', '.join(flags)} needs audio, but this model takes frames from files; leave it out.")
        found, done = predict_frames(recognizer, paths, batch_seconds), files
    else:
        screen.check_supported(recognizer, speaker_per_folder, attention is not None)
        files = collect_files(paths)
        statistics_of = (
            statistics_by_folder(recognizer, files, enrol, shrinkage) if speaker_per_folder else lambda path: None
        )
        found, done = screen.recognise(recognizer, files, window, hop, batch_seconds, workers, statistics_of, gate)
    screen.show_predictions(found.table, recognizer, speaker_per_folder, gate)
    if output is not None:
        screen.write_table(output, found.table)
        typer.echo(f"the table is in {output}, rows: {len(found.table)}")
    if attention is not None:
        from ser.evaluation.figures.network import draw_attention  # noqa: PLC0415  needs matplotlib

        draw_attention(recognizer, done, attention, statistics_of, gate)
        typer.echo(f"attention over the waveforms in {attention}")
    if found.failures:
        screen.show_failures(found.failures, len(found.failures) + found.table["file"].nunique())
    if len(done) < len(files):
        typer.echo(f"Ctrl-C after {len(done)} of {len(files)} files")
        return INTERRUPTED
    return PARTLY_FAILED if found.failures else 0


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
    input: Annotated[Path | None, option("FILE", "An audio file in place of the microphone.")] = None,
    realtime: Annotated[bool, flag("--realtime", "Read the file at the pace it plays.")] = False,
    microphone: Annotated[str | None, option("NAME", "Number or part of the name of the input device.")] = None,
    window: Annotated[float, option("SECONDS", "Length of each window.", callback=positive)] = 5.0,
    hop: Annotated[float, option("SECONDS", "From one window to the next.", callback=positive)] = 0.5,
    smoothing: Annotated[
        float,
        option(
            "WEIGHT",
            "Weight of earlier windows in the probabilities, 0 to below 1; more of it shows fewer changes, later. "
            "The most probable emotion is shown always: there is no hysteresis.",
        ),
    ] = 0.0,
    no_gate: NoGate = False,
    as_json: Annotated[bool, flag("--json", "Print one line of JSON per window as it is answered.")] = False,
    output: Output = None,
    record: Annotated[
        Path | None, option("FILE.wav", "Keep what is heard, and a line of JSON per window in FILE.jsonl.")
    ] = None,
) -> int:
    """Recognise the emotion of a microphone, or of a file as it plays; Ctrl-C ends.

    Exit code 3: part of a file, or all of it, could not be recognised.
    """
    with fast_imports():
        from ser.inference.listening import listen as show  # noqa: PLC0415
        from ser.inference.screen import check_table_name  # noqa: PLC0415
        from ser.inference.sources import file_source, microphone_source  # noqa: PLC0415
        from ser.inference.timeline import check_windows, fit_windows  # noqa: PLC0415
        from ser.inference.vad import best_gate  # noqa: PLC0415

    check_table_name(output)
    check_windows(window, hop)
    if input is not None:
        window, hop = fit_windows(window, hop, input)
    recognizer = open_model(checkpoint, encoder, device, allow_download)
    if recognizer.encoder is not None:
        recognizer.encoder.load()  # a model of frames from files refuses here
    wanted = int(microphone) if microphone is not None and microphone.isdigit() else microphone
    source = microphone_source(wanted) if input is None else file_source(input, realtime)
    found = None if no_gate else best_gate()
    settings = {"window": window, "hop": hop, "smoothing": smoothing}
    answered = show(recognizer, source, output, as_json, found, **settings, record=record)
    return 0 if answered or input is None else PARTLY_FAILED


@command(USE, "ser demo", "ser demo --checkpoint RUN --checkpoint RUN2 --port 8000")
def demo(
    checkpoint: Annotated[
        list[str] | None,
        option(
            "RUN", "Run folder, .ckpt, exported folder or .onnx file; repeat to choose among. Default: as ser predict."
        ),
    ] = None,
    encoder: Encoder = None,
    device: Device = "cpu",
    allow_download: AllowDownload = False,
    host: Annotated[str, option("ADDRESS", "Address to serve on; 127.0.0.1 is this computer only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port to serve on.")] = 7860,
    max_upload_mb: Annotated[float, option("MB", "Largest file that is accepted.", callback=positive)] = 50.0,
    max_seconds: Annotated[float, option("SECONDS", "Longest file that is accepted.", callback=positive)] = 600.0,
    allow_host: Annotated[
        list[str] | None, option("NAME", "Name under which browsers may call a page open to the network; repeat.")
    ] = None,
) -> None:
    """Serve a web page that recognises a microphone, files and folders; Ctrl-C ends."""
    log.info("loading the page and the model")
    try:
        from ser.demo.server import Settings, serve  # noqa: PLC0415
    except ImportError as error:
        raise SerError(
            f"the page needs Gradio, which is not installed ({error.name}); pip install 'ser-lab[demo]'."
        ) from error
    from ser.inference.checkpoint import PRETRAINED, find_model  # noqa: PLC0415

    models = checkpoint or [str(PRETRAINED)]
    for model in models:
        find_model(model)  # says which one is not there
    fetch = allow_download or may_fetch_encoders(models, encoder)
    serve(Settings(models, encoder, device, host, port, max_upload_mb, max_seconds, allow_host or (), fetch))


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
    form: Annotated[
        Literal["onnx", "hub"], typer.Option("--format", help="ONNX file, or folder for the Hugging Face Hub.")
    ] = "onnx",
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Store the weights of an ONNX file as 8-bit integers.")
    ] = None,
    with_encoder: Annotated[
        bool, flag("--with-encoder", "Put the encoder into the ONNX file: waveform in, probabilities out.")
    ] = False,
    compare: Annotated[list[Path] | None, option("FOLDER", "Also compare the ONNX file with PyTorch on these.")] = None,
    output: Annotated[Path | None, option("PATH", "File (onnx) or folder (hub); default: in the run folder.")] = None,
) -> None:
    """Write a trained model as an ONNX file or as a Hugging Face folder."""
    from ser.inference.checkpoint import PRETRAINED, find_model, run_folder  # noqa: PLC0415

    found = find_model(checkpoint or PRETRAINED)
    folder = Path() if found == PRETRAINED else run_folder(found)
    recognizer = open_model(checkpoint and str(found), encoder, device, allow_download)
    if form == "onnx":
        from ser.inference.screen import export_and_compare  # noqa: PLC0415

        stem = "model-with-encoder" if with_encoder else "model"
        target = output or folder / f"{stem}{'.int8' * bool(quantize)}.onnx"
        export_and_compare(recognizer, target, with_encoder, bool(quantize), compare or [])
        return
    if quantize or with_encoder or compare:
        raise SerError("--quantize, --with-encoder and --compare belong to --format onnx; leave them out.")
    from ser.trained.hub import export_hub  # noqa: PLC0415

    typer.echo(f"model, description and card in {export_hub(recognizer, output or folder / 'hub', folder)}")
