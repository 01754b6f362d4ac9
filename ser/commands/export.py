"""Write a trained model for other programs: ``ser export --checkpoint RUN --format onnx``."""

import argparse
from pathlib import Path

from rich import get_console
from rich.table import Table

from ser.commands.predict import add_model_arguments
from ser.data.audio import SAMPLE_RATE, read_audio
from ser.errors import SerError
from ser.inference.checkpoint import find_model
from ser.inference.export import Agreement, agreement, export_onnx
from ser.inference.files import collect_files
from ser.inference.hub import export_hub
from ser.inference.recognizer import Recognizer
from ser.inference.waveforms import LONGEST_SECONDS, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, form, place."""
    add_model_arguments(parser)
    parser.add_argument("--format", choices=("onnx", "hub"), default="onnx", help="default: onnx")
    parser.add_argument("--quantize", choices=("int8",), help="onnx: store weights as 8-bit integers")
    parser.add_argument("--with-encoder", action="store_true", help="onnx: waveform in, probabilities out")
    parser.add_argument(
        "--compare", metavar="FOLDER", action="append", help="onnx: also compare on these files, such as a test set"
    )
    parser.add_argument("--output", metavar="PATH", help="file (onnx) or folder (hub); default: in the run folder")


def run(arguments: argparse.Namespace) -> int:
    """Export, compare, say where it lies."""
    found = find_model(arguments.checkpoint)
    run_folder = found.parent.parent if found.parent.name == "checkpoints" else found.parent
    recognizer = Recognizer.from_checkpoint(found, arguments.encoder, arguments.device)
    if arguments.format == "hub":
        if arguments.quantize or arguments.with_encoder or arguments.compare:
            raise SerError("--quantize, --with-encoder and --compare belong to --format onnx; leave them out.")
        folder = export_hub(recognizer, arguments.output or run_folder / "hub", run_folder)
        get_console().print(f"model, description and card in {folder}", highlight=False, soft_wrap=True)
        return 0
    stem = "model-with-encoder" if arguments.with_encoder else "model"
    output = Path(arguments.output or run_folder / f"{stem}{'.int8' * bool(arguments.quantize)}.onnx")
    if output.suffix != ".onnx":
        raise SerError(f"--output {output} ends in {output.suffix or 'nothing'!r}, expected .onnx; rename it.")
    rows = export_onnx(recognizer, output, with_encoder=arguments.with_encoder, quantize=bool(arguments.quantize))
    rows = {f"{name}, made-up sounds": row for name, row in rows.items()}
    if arguments.compare:
        exported = Recognizer.from_checkpoint(output, encoder=recognizer.encoder)
        waveforms = [
            prepare(read_audio(path, 0.0, LONGEST_SECONDS), SAMPLE_RATE) for path in collect_files(arguments.compare)
        ]
        rows[f"{output.name}, given files"] = agreement(recognizer, exported, waveforms)
    _show(rows)
    parameters = list(recognizer.parameters())
    if arguments.with_encoder and (encoder := vars(recognizer.encoder).get("model")) is not None:  # loaded by now
        parameters += encoder.parameters()
    weights = sum(value.numel() * value.element_size() for value in parameters)
    size = output.stat().st_size
    get_console().print(
        f"{output}: {size / 1e6:.2f} MB (weights in PyTorch: {weights / 1e6:.2f} MB, "
        f"{weights / size:.1f} times as large)",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _show(rows: dict[str, Agreement]) -> None:
    table = Table("form", "recordings", "seconds", "largest difference", "same label", title="beside PyTorch")
    for name, row in rows.items():
        table.add_row(
            name,
            str(row.recordings),
            f"{row.shortest:.2f} - {row.longest:.1f}",
            f"{row.largest_difference:.1e}",
            f"{100 * row.same_label:.1f}%",
        )
    get_console().print(table)
