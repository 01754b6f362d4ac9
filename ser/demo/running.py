"""Put the page together and serve it."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fastapi

from ser.demo.models import ModelShelf
from ser.demo.recordings import Limits
from ser.demo.server import make_app, private_uploads
from ser.demo.sessions import Sessions
from ser.errors import SerError
from ser.inference.speech_gate import best_gate

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import uvicorn

from ser.demo.page import HEAD, Page, page_theme

log = logging.getLogger(__name__)

_THIS_COMPUTER = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Settings:
    """What ``ser demo`` is told.

    Attributes:
        checkpoints: models to choose from.
        encoder: folder of the pretrained encoder, if not where training had it.
        device: where they compute.
        host: address to serve on.
        port: to serve on.
        megabytes: of the largest file.
        seconds: of the longest file.
    """

    checkpoints: Sequence[str | Path]
    encoder: str | Path | None = None
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = 7860
    megabytes: float = 50.0
    seconds: float = 600.0


def make_page(settings: Settings, folder: Path) -> tuple[fastapi.FastAPI, Sessions]:
    """The whole application, and the sessions that it opens.

    Args:
        settings: models, address, limits.
        folder: from private_uploads.
    """
    shelf = ModelShelf(settings.checkpoints, settings.encoder, settings.device)
    sessions = Sessions(folder / "sessions", shelf.names[0])
    gate = best_gate()
    limits = Limits(settings.megabytes, settings.seconds)
    hosts = list(_THIS_COMPUTER) if settings.host in _THIS_COMPUTER else ["*"]
    app = make_app(sessions, shelf, gate, folder / "uploads", hosts)
    blocks = Page(shelf, sessions, gate, limits, folder / "uploads").build()
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=page_theme(),
        head=HEAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=True,
        max_file_size=round(settings.megabytes * 1e6),
        enable_monitoring=False,
        server_name=settings.host,
        server_port=settings.port,
    )
    blocks.has_launched = True  # Gradio checks the paths in requests only then, and mounting does not say so
    return app, sessions


def serve(settings: Settings) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        SerError: the port is taken, or the address is not this computer's.
    """
    with private_uploads() as folder, _listener(settings.host, settings.port) as listener:
        app, sessions = make_page(settings, folder)
        log.info("open http://%s:%d in a browser; Ctrl-C ends", settings.host, settings.port)
        if settings.host not in _THIS_COMPUTER:
            log.warning(
                "everyone who reaches this address can use the page; browsers give the microphone only to "
                "https pages and to 127.0.0.1"
            )
        # A plain end of the process would leave the visitors' recordings on the disk.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run([listener])
        finally:
            sessions.close_all()


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise SerError(
            f"{host}:{port} cannot be served on ({getattr(error, 'strerror', None) or error}); choose "
            "another --port, or end the program that has it."
        ) from error
