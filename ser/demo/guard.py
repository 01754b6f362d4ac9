"""What every request is checked for before Gradio sees it, and what every answer says to the browser."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from ser.demo.texts import text

# Gradio's own scripts and styles stand inline in its page; nothing may come from another server.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' blob:; frame-ancestors 'none'"
)


class Guard:
    """HTTP middleware: refuses requests of other sites or for files elsewhere, and keeps the page to this server.

    Gradio copies every file that a request names to its cache, from where it can be fetched; by itself it trusts the
    names of a mounted page. So each one has to lie among the uploads.

    Args:
        uploads: folder of uploaded files.
    """

    def __init__(self, uploads: Path) -> None:
        self.uploads = uploads.resolve()

    async def __call__(self, request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Check, pass on, and add the headers."""
        if request.method == "POST" and _from_another_site(request):
            return JSONResponse({"detail": "another site's page may not use this one"}, status_code=403)
        if (
            request.method == "POST"
            and request.url.path.startswith("/gradio_api/")
            and not self._harmless(request.headers.get("content-type", ""), await self._body(request))
        ):
            return JSONResponse({"detail": text("en", "outside")}, status_code=403)
        response = await proceed(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def _body(self, request: Request) -> bytes:
        """The body of anything but an upload, which is large and holds no names of our files."""
        return b"" if request.url.path == "/gradio_api/upload" else await request.body()

    def _harmless(self, kind: str, body: bytes) -> bool:
        if not body:
            return True
        try:
            content = json.loads(body)
        except ValueError:
            return "json" not in kind
        return all(self._uploaded(path) for path in named_paths(content))

    def _uploaded(self, path: str) -> bool:
        try:
            return Path(path).resolve().is_relative_to(self.uploads)
        except (OSError, ValueError):  # a name that no file can have
            return False


def _from_another_site(request: Request) -> bool:
    """Whether a browser sent it from a page of another server; it then says which."""
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def named_paths(content: Any) -> list[str]:
    """Every path, at whatever depth, that a request's JSON names as a file's."""
    if isinstance(content, dict):
        own = [str(content["path"])] if content.get("path") else []
        return own + [path for value in content.values() for path in named_paths(value)]
    return [path for value in content for path in named_paths(value)] if isinstance(content, list) else []
