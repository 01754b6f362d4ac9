"""A page in the browser: ``ser demo --checkpoint RUN [--checkpoint RUN2 ...]``."""

import argparse
import logging

from ser.commands.values import positive_number
from ser.errors import SerError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, address, limits."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        metavar="RUN",
        help="run folder, .ckpt, exported folder or .onnx file; several to choose from",
    )
    parser.add_argument(
        "--encoder", metavar="FOLDER", help="folder or Hub id of the pretrained encoder, if not where training had it"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this computer only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument(
        "--max-upload-mb",
        type=positive_number,
        default=50.0,
        metavar="MB",
        help="largest file that is accepted (default: 50)",
    )
    parser.add_argument(
        "--max-seconds",
        type=positive_number,
        default=600.0,
        metavar="SECONDS",
        help="longest file that is accepted (default: 600)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    try:
        from ser.demo.running import Settings, serve  # noqa: PLC0415
    except ImportError as error:
        raise SerError(
            f"the page needs Gradio, which is not installed ({error.name}); pip install 'ser[demo]'."
        ) from error
    serve(
        Settings(
            arguments.checkpoint,
            arguments.encoder,
            arguments.device,
            arguments.host,
            arguments.port,
            arguments.max_upload_mb,
            arguments.max_seconds,
        )
    )
    return 0
