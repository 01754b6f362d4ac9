"""The model of a command: the one it was given, or the one that comes with the package."""

import logging
import sys
from collections.abc import Sequence

from ser.encoders.weights import download_size
from ser.errors import EncoderNotHereError, SerError
from ser.inference.checkpoint import PRETRAINED
from ser.inference.recognizer import Recognizer

log = logging.getLogger(__name__)


def open_model(
    checkpoint: str | None, encoder: str | None = None, device: str = "cpu", allow_download: bool = False
) -> Recognizer:
    """The model of a command, by default that of the package, which it says; on a terminal, asks before a download.

    Raises:
        SerError: as for Recognizer.from_checkpoint.
    """
    path = checkpoint or PRETRAINED
    try:
        recognizer = Recognizer.from_checkpoint(path, encoder, device, allow_download=allow_download)
    except EncoderNotHereError as missing:
        if not may_fetch(missing.encoder):
            raise
        recognizer = Recognizer.from_checkpoint(path, encoder, device, allow_download=True)
    if checkpoint is None:
        corpus, emotions = str(recognizer.config.plain["corpus"]).upper(), ", ".join(recognizer.emotions)
        log.info("no --checkpoint: the model that comes with ser-lab answers (%s: %s)", corpus, emotions)
    return recognizer


def fetches_encoders(models: Sequence[str], encoder: str | None) -> bool:
    """Whether encoders may be fetched for models that are loaded later; asks where one is missing."""
    for path in models:
        try:
            Recognizer.from_checkpoint(path, encoder)
        except EncoderNotHereError as missing:
            if may_fetch(missing.encoder):
                return True
        except SerError:
            continue  # said where it is opened
    return False


def may_fetch(encoder: str) -> bool:
    """Whether the user, asked with the size, agrees to fetch an encoder of the Hub; False without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    from rich.console import Console  # noqa: PLC0415
    from rich.prompt import Confirm  # noqa: PLC0415

    size = download_size(encoder)
    question = f"The encoder {encoder} is not on this machine. Fetch it from the Hugging Face Hub ({size})?"
    return Confirm.ask(question, console=Console(stderr=True), default=False)
