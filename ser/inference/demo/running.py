"""Put the page together and serve it."""

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fastapi

from ser.errors import SerError
from ser.inference.demo.models import ModelShelf
from ser.inference.demo.recordings import Limits
from ser.inference.demo.server import make_app, private_uploads
from ser.inference.demo.sessions import Sessions
from ser.inference.speech_gate import best_gate

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import uvicorn

from ser.inference.demo.page import HEAD, Page, page_theme

log = logging.getLogger(__name__)


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
    hosts = ["127.0.0.1", "localhost", "[::1]"] if settings.host in ("127.0.0.1", "localhost", "::1") else ["*"]
    app = make_app(sessions, shelf, gate, hosts)
    blocks = Page(shelf, sessions, gate, limits, folder / "uploads").build()
    gr.mount_gradio_app(
        app, blocks, path="/", theme=page_theme(), head=HEAD, footer_links=[], run_history=False, ssr_mode=False,
        show_error=True, max_file_size=round(settings.megabytes * 1e6), enable_monitoring=False,
        server_name=settings.host, server_port=settings.port)
    return app, sessions


def serve(settings: Settings) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        SerError: the port is taken.
    """
    with private_uploads() as folder:
        app, sessions = make_page(settings, folder)
        try:
            with socket.create_server((settings.host, settings.port), reuse_port=False) as listener:
                log.info("open http://%s:%d in a browser on this computer; Ctrl-C ends", settings.host, settings.port)
                uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run([listener])
        except OSError as error:
            raise SerError(f"{settings.host}:{settings.port} cannot be served on ({error.strerror or error}); choose "
                           "another --port, or end the program that has it.") from error
        finally:
            sessions.close_all()
