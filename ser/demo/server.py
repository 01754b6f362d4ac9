"""The web server around the page: the microphone's blocks, downloads, play back, and nothing from elsewhere."""

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastapi
import numpy as np
import pandas as pd
import soundfile
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ser.data.audio import SAMPLE_RATE, read_audio
from ser.demo import views
from ser.demo.guard import Guard
from ser.demo.history import entry_table, to_csv, to_json
from ser.demo.models import ModelShelf
from ser.demo.sessions import Session, Sessions
from ser.demo.texts import text
from ser.errors import SerError
from ser.inference.speech_gate import SpeechGate
from ser.inference.waveforms import LONGEST_SECONDS

log = logging.getLogger(__name__)

_ASSETS = {"capture.js": "text/javascript", "worklet.js": "text/javascript", "page.css": "text/css"}
_LARGEST_BLOCK = 8_000_000  # bytes: 10 s at the highest rate


@contextmanager
def private_uploads() -> Iterator[Path]:
    """A folder of this process for uploads, clips and Gradio's cache; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ser-demo-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    (folder / "uploads").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_app(
    sessions: Sessions, shelf: ModelShelf, gate: SpeechGate, uploads: Path, hosts: list[str]
) -> fastapi.FastAPI:
    """The application without its page, which Gradio mounts on it.

    Args:
        sessions: of the browsers.
        shelf: of the models.
        gate: finds speech.
        uploads: folder of uploaded files.
        hosts: names under which browsers may call this server; another name is another site's attempt.
    """
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    app.middleware("http")(Guard(uploads))
    app.include_router(_microphone_routes(sessions, shelf, gate))
    app.include_router(_file_routes(sessions))
    return app


def _microphone_routes(sessions: Sessions, shelf: ModelShelf, gate: SpeechGate) -> APIRouter:
    router = APIRouter()

    @router.post("/ser/{token}/block")
    async def block(token: str, first: int, rate: int, request: Request) -> Response:
        session = _session(sessions, token)
        body = await request.body()
        if first < 0 or not 0 < len(body) <= _LARGEST_BLOCK or len(body) % 4:
            raise HTTPException(400, "expected up to 8 MB of 32-bit samples")
        samples = np.frombuffer(body, "<f4")
        return JSONResponse(await run_in_threadpool(_hear, session, shelf, gate, first, rate, samples))

    @router.post("/ser/{token}/stop")
    def stop(token: str) -> Response:
        _session(sessions, token).stop()
        return JSONResponse({})

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
        entry = _session(sessions, token).history.find(number)
        if entry is None or entry.clip is None:
            raise HTTPException(404, "this recording is no longer kept")
        return Response(_wav(entry.clip), media_type="audio/wav")

    @router.get("/ser/{token}/{what}.{kind}")
    def download(token: str, what: str, kind: str) -> Response:
        table = _table(_session(sessions, token), what)
        if table is None or kind not in ("csv", "json"):
            raise HTTPException(404, "there is nothing to download")
        content = to_csv(table) if kind == "csv" else to_json(table)
        media = "text/csv" if kind == "csv" else "application/json"
        return Response(
            content,
            media_type=f"{media}; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{what}.{kind}"'},
        )

    return router


def _session(sessions: Sessions, token: str) -> Session:
    session = sessions.by_token(token)
    if session is None:
        raise HTTPException(404, "this window's session has ended; reload the page")
    return session


def _hear(
    session: Session, shelf: ModelShelf, gate: SpeechGate, first: int, rate: int, samples: np.ndarray
) -> dict[str, Any]:
    """Take in a block and answer with what the page shows of the microphone."""
    try:
        live = session.hear(shelf.open(session.model), gate, rate)
    except SerError as error:
        return {"error": text(session.language, "model_failed", reason=error)}
    live.write(first, samples)
    return views.live_sound(live, session.language)


def _table(session: Session, what: str) -> pd.DataFrame | None:
    if what == "history":
        return entry_table(session.history.shown())
    return session.table if what == "folder" else None


def _wav(path: Path) -> bytes:
    """The first minute of any recording as WAV, which every browser plays."""
    try:
        samples = read_audio(path, 0.0, LONGEST_SECONDS).numpy()
    except SerError as error:
        raise HTTPException(404, "this recording is no longer kept") from error
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
