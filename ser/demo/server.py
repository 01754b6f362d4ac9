"""The web server around the page: microphone, downloads, playback, and the checks that every request passes."""

import io
import ipaddress
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import numpy as np
import soundfile
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from ser.data.audio import LONGEST_SECONDS, SAMPLE_RATE, read_audio
from ser.demo import text
from ser.demo.live import live_panel
from ser.demo.recognition import Limits, ModelShelf
from ser.demo.state import Session, Sessions
from ser.errors import SerError
from ser.inference.vad import SpeechGate, best_gate
from ser.io import json_text, plain_rows, safe_csv

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import uvicorn

from ser.demo.app import HEAD, Page, page_theme

log = logging.getLogger(__name__)

_THIS_COMPUTER = ("127.0.0.1", "localhost")
_ASSETS = {"capture.js": "text/javascript", "worklet.js": "text/javascript", "page.css": "text/css"}
_LARGEST_BLOCK = 8_000_000  # bytes: 10 s at the highest rate
# Gradio's own scripts and styles stand inline in its page; nothing may come from another server.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' blob:; frame-ancestors 'none'"
)
_QUOTA_SECONDS = 3600.0  # as long as Gradio keeps an upload


@dataclass(frozen=True)
class Settings:
    """The options of ``ser demo``."""

    checkpoints: Sequence[str | Path]  # models to choose from
    encoder: str | Path | None = None  # folder of the pretrained encoder, if not where training had it
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = 7860
    megabytes: float = 50.0  # of the largest file
    seconds: float = 600.0  # of the longest file
    allowed_hosts: Sequence[str] = ()  # besides this computer's own, for a page that is open to the network
    allow_download: bool = False  # fetch encoders that the models name from the Hugging Face Hub

    @property
    def open(self) -> bool:
        """Whether other computers can reach the page."""
        return self.host not in _THIS_COMPUTER


def serve(settings: Settings) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        SerError: the first model cannot be loaded, the port is taken, or the address is not this computer's.
    """
    with private_uploads() as folder, _listener(settings.host, settings.port) as listener:
        app, sessions = make_page(settings, folder)
        log.info("open http://%s:%d in a browser; Ctrl-C ends", settings.host, settings.port)
        if settings.open:
            log.warning(
                "the page is open to the network: everyone who reaches this address can use it; browsers give the "
                "microphone only to https pages and to 127.0.0.1"
            )
        # A plain end of the process would leave the visitors' recordings on the disk.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run([listener])
        finally:
            sessions.close_all()


def make_page(settings: Settings, folder: Path) -> tuple[fastapi.FastAPI, Sessions]:
    """The whole application, and the sessions that it opens; ``folder`` is that of private_uploads."""
    shelf = ModelShelf(settings.checkpoints, settings.encoder, settings.device, settings.allow_download)
    shelf.open(shelf.names[0])  # the one that is shown: a page without it would be of no use
    sessions = Sessions(folder / "sessions", shelf.names[0])
    gate, limits = best_gate(), Limits(settings.megabytes, settings.seconds)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(Guard(folder / "uploads", settings))
    app.include_router(_microphone_routes(sessions, shelf, gate))
    app.include_router(_file_routes(sessions))
    blocks = Page(shelf, sessions, gate, limits, folder / "uploads", settings.open).blocks
    place: Any = {"path": "/", "server_name": settings.host, "server_port": settings.port}
    place |= {"max_file_size": round(settings.megabytes * 1e6), "show_error": True, "ssr_mode": False}
    looks: Any = {"theme": page_theme(), "head": HEAD, "footer_links": []}
    gr.mount_gradio_app(app, blocks, **place, **looks, run_history=False, enable_monitoring=False)
    blocks.has_launched = True  # or Gradio does not check the paths in requests; mounting does not set it
    return app, sessions


@contextmanager
def private_uploads() -> Iterator[Path]:
    """A folder of this process for uploads, clips and Gradio's cache; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ser-demo-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    (folder / "uploads").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]  # the address once
        raise SerError(f"cannot serve on {host}:{port} ({reason}); choose another --port or --host.") from error


class Guard:
    """HTTP middleware: refuses requests of other sites, for files elsewhere and beyond the quota of uploads.

    Gradio copies every file that a request names to its cache, from where it can be fetched; by itself it trusts the
    names of a mounted page. So each one has to lie in ``uploads``.
    """

    def __init__(self, uploads: Path, settings: Settings) -> None:
        self.uploads, self.open = uploads.resolve(), settings.open
        own = socket.gethostname().lower()
        others = {settings.host, own, f"{own}.local", *map(str.lower, settings.allowed_hosts)}
        self.hosts = {*_THIS_COMPUTER} | (others if settings.open else set())
        self.quota = 40 * settings.megabytes * 1e6  # bytes per client and hour; four times as many of all
        self._received: deque[tuple[float, str, int]] = deque()  # time, client, bytes

    async def __call__(self, request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Check, pass on, and add the headers."""
        refusal = await self._refusal(request)
        if refusal is not None:
            return JSONResponse({"detail": refusal[1]}, status_code=refusal[0])
        response = await proceed(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Status and reason of a request that is refused."""
        host = request.headers.get("host", "")
        if not self._own_name(host):
            return 400, f"this page is not served as {host!r}; add the name with --allow-host if it is yours"
        if request.method != "POST":
            return None
        if request.headers.get("origin", f"://{host}").partition("://")[2] != host:
            return 403, "another site's page may not use this one"
        if request.url.path.rstrip("/") == "/gradio_api/upload":
            return self._over_quota(request)
        kind = request.headers.get("content-type", "")
        if request.url.path.startswith("/gradio_api/") and not self._harmless(kind, await request.body()):
            return 403, text("en", "outside")
        return None

    def _own_name(self, host: str) -> bool:
        """Whether a Host header names this server; an address cannot be another site's, so an open page takes any."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() in self.hosts:
            return True
        try:
            return self.open and bool(ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            return False

    def _over_quota(self, request: Request) -> tuple[int, str] | None:
        """Count an upload; one without a length cannot be counted."""
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return 411, "an upload has to say its length"
        client, now, size = request.client.host if request.client else "", time.monotonic(), int(length)
        while self._received and now - self._received[0][0] > _QUOTA_SECONDS:
            self._received.popleft()
        total = sum(count for _, _, count in self._received)
        own = sum(count for _, name, count in self._received if name == client)
        if own + size > self.quota or total + size > 4 * self.quota:
            return 413, text("en", "over_quota", most=self.quota / 1e6)
        self._received.append((now, client, size))
        return None

    def _harmless(self, kind: str, body: bytes) -> bool:
        """Whether every file that a request names lies among the uploads."""
        try:
            paths = _named_paths(json.loads(body or b"{}"))
        except ValueError:
            return "json" not in kind
        try:
            return all(Path(path).resolve().is_relative_to(self.uploads) for path in paths)
        except (OSError, ValueError):  # a name that no file can have
            return False


def _named_paths(content: Any) -> list[str]:
    """Every path, at whatever depth, that a request's JSON names as a file's."""
    if isinstance(content, dict):
        own = [str(content["path"])] if content.get("path") else []
        return own + [path for value in content.values() for path in _named_paths(value)]
    return [path for value in content for path in _named_paths(value)] if isinstance(content, list) else []


def _microphone_routes(sessions: Sessions, shelf: ModelShelf, gate: SpeechGate) -> APIRouter:
    router = APIRouter()

    def hear(session: Session, first: int, rate: int, samples: np.ndarray) -> dict[str, str]:
        try:
            live = session.hear(shelf.open(session.model), gate, rate)
        except SerError as error:
            return {"error": text(session.language, "model_failed", reason=error)}
        live.write(first, samples)
        return live_panel(live, session.language, session.token)

    @router.post("/ser/{token}/block")
    async def block(token: str, first: int, rate: int, request: Request) -> Response:
        session = _session(sessions, token)
        body = await request.body()
        if first < 0 or not 0 < len(body) <= _LARGEST_BLOCK or len(body) % 4:
            raise HTTPException(400, "expected up to 8 MB of 32-bit samples")
        return JSONResponse(await run_in_threadpool(hear, session, first, rate, np.frombuffer(body, "<f4")))

    @router.post("/ser/{token}/stop")
    def stop(token: str) -> Response:
        session = _session(sessions, token)
        session.stop()
        heard = session.listened
        return JSONResponse(live_panel(heard, session.language, session.token) if heard else {})

    return router


def _file_routes(sessions: Sessions) -> APIRouter:
    router = APIRouter()

    @router.get("/ser/asset/{name}")
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404)
        return FileResponse(Path(__file__).with_name(name), media_type=_ASSETS[name])

    @router.get("/ser/{token}/clip/{number}")
    def clip(token: str, number: int) -> Response:
        """The first minute of any recording as WAV, which every browser plays."""
        found = _session(sessions, token).history.find(number)
        if found is None:
            raise HTTPException(404, "this recording is no longer kept")
        samples = read_audio(found[1], 0.0, LONGEST_SECONDS).numpy()
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        return Response(buffer.getvalue(), media_type="audio/wav")

    @router.get("/ser/{token}/{what}.{kind}")
    def download(token: str, what: str, kind: str) -> Response:
        session = _session(sessions, token)
        heard = session.listened
        if what == "recording" and heard is not None and heard.recording is not None and heard.ended:
            files = {"wav": heard.recording.wav, "jsonl": heard.recording.lines}
            if kind in files and files[kind].is_file():
                return FileResponse(files[kind], filename=f"recording.{kind}")
        table = session.history.table() if what == "history" else session.table if what == "folder" else None
        if table is None or kind not in ("csv", "json"):
            raise HTTPException(404, "there is nothing to download")
        content = safe_csv(table) if kind == "csv" else json_text(plain_rows(table))
        media = "text/csv" if kind == "csv" else "application/json"
        headers = {"Content-Disposition": f'attachment; filename="{what}.{kind}"'}
        return Response(content, media_type=f"{media}; charset=utf-8", headers=headers)

    return router


def _session(sessions: Sessions, token: str) -> Session:
    session = sessions.by_token(token)
    if session is None:
        raise HTTPException(404, "this window's session has ended; reload the page")
    return session
