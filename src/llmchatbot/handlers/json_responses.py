"""JSON answers of the routes that are asked most, on a short way to the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from litestar import Response

T = TypeVar("T")


class JsonResponse(Response[T]):
    """As the framework's own, which gathers cookies and headers in a map of several layers: 25 of a list's 190 µs."""

    def __init__(self, content: T, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        # Not the framework's constructor: nothing of what it prepares is used.
        self.content = content
        self.status_code = status_code
        self.headers = dict(headers or {})

    def to_asgi_response(self, *args: Any, headers: Mapping[str, str] | None = None, **others: Any) -> Any:
        """The framework's question for an ASGI application; `headers` are those of the route."""
        self.headers = {**(headers or {}), **self.headers}
        return self._answer

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = msgspec.json.encode(self.content)
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
