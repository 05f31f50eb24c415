"""The page to chat on: `/` and `/assets/…`, static files of the package, held in memory.

A request never reaches the file system: an address is looked up among the files that were there at the start, so there
is no path to climb. Nothing has a version in its name; the browser asks with its ETag and gets 304.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from litestar import HttpMethod, Request, Response, route
from litestar.di import NamedDependency
from litestar.params import FromPath

from llmchatbot.errors import NotFound
from llmchatbot.handlers.authentication import PUBLIC

FOLDER = Path(__file__).resolve().parent.parent / "web"
# Files of these kinds alone are served; a README or a licence stays in the package. Litestar adds the charset.
CONTENT_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
# No inline script or style, nothing from elsewhere, and no place where a string could become markup: with Trusted Types
# required and no policy allowed, `innerHTML` and its like throw.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
READ = (HttpMethod.GET, HttpMethod.HEAD)
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


class WebFile:
    """One file, packed when the first client asks for it so: some are large, and most processes never send them."""

    def __init__(self, content_type: str, plain: bytes) -> None:
        self.content_type = content_type
        self.plain = plain
        self.etag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.plain, mtime=0)


class WebFiles:
    """All files of the page by the path below `web/`."""

    def __init__(self, files: Mapping[str, WebFile]) -> None:
        self._files = files

    def get(self, path: str) -> WebFile:
        """Raises NotFound."""
        found = self._files.get(path)
        if found is None:
            raise NotFound
        return found


def read_web_files(folder: Path = FOLDER) -> WebFiles:
    """Read what is in `folder`; a few milliseconds."""
    files: dict[str, WebFile] = {}
    for path in sorted(folder.rglob("*")):
        content_type = CONTENT_TYPES.get(path.suffix)
        if content_type is not None and path.is_file():
            files[path.relative_to(folder).as_posix()] = WebFile(content_type, path.read_bytes())
    return WebFiles(files)


@route("/", http_method=READ, opt=PUBLIC, include_in_schema=False)
async def index(request: Request[Any, Any, Any], web_files: NamedDependency[WebFiles]) -> Response[bytes]:
    return respond(request, web_files.get("index.html"))


@route("/favicon.ico", http_method=READ, opt=PUBLIC, include_in_schema=False)
async def favicon(request: Request[Any, Any, Any], web_files: NamedDependency[WebFiles]) -> Response[bytes]:
    """Asked for by browsers on addresses whose answer is no page of ours and names no icon."""
    return respond(request, web_files.get("assets/icon.svg"))


@route("/assets/{path:path}", http_method=READ, opt=PUBLIC, include_in_schema=False)
async def asset(
    request: Request[Any, Any, Any], path: FromPath[str], web_files: NamedDependency[WebFiles]
) -> Response[bytes]:
    return respond(request, web_files.get(f"assets/{path.lstrip('/')}"))


def respond(request: Request[Any, Any, Any], file: WebFile, headers: Mapping[str, str] = HEADERS) -> Response[bytes]:
    headers = {**headers, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers, media_type=file.content_type)
    if "gzip" in request.headers.get("accept-encoding", "").lower():
        return Response(file.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.content_type)
    return Response(file.plain, headers=headers, media_type=file.content_type)


ROUTES = (index, favicon, asset)
