"""The documentation that the server carries: `/openapi.json` for programs, `/docs` for people, offline too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, Response, route
from litestar.di import NamedDependency

from llmchatbot.handlers.authentication import PUBLIC
from llmchatbot.handlers.openapi import Document
from llmchatbot.handlers.pages import HEADERS, READ, WebFile, WebFiles, respond

# RapiDoc puts one style element and many style attributes into its page: the element is named by its hash, which
# changes with the file and with the attributes in web/docs.html (a browser test watches it).
STYLE_HASH = "sha256-JS3FfHW23pffa/BhdImyz9OEU20oGTXAbkCMMJKX7k8="
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' '{STYLE_HASH}'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ApiDocument:
    """Made once, when somebody asks: it takes the framework a moment that most processes never need."""

    def __init__(self, make: Callable[[], Document]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._file: WebFile | None = None

    async def read(self) -> WebFile:
        async with self._lock:
            if self._file is None:
                document = await asyncio.to_thread(self._make)
                self._file = WebFile("application/json", msgspec.json.encode(document))
        return self._file


@route("/openapi.json", http_method=READ, opt=PUBLIC, include_in_schema=False)
async def openapi_json(request: Request[Any, Any, Any], api_document: NamedDependency[ApiDocument]) -> Response[bytes]:
    return respond(request, await api_document.read())


@route("/docs", http_method=READ, opt=PUBLIC, include_in_schema=False)
async def docs(request: Request[Any, Any, Any], web_files: NamedDependency[WebFiles]) -> Response[bytes]:
    return respond(request, web_files.get("docs.html"), {**HEADERS, "Content-Security-Policy": POLICY})


ROUTES = (openapi_json, docs)
