"""What every request passes first and every answer last: headers, cross-origin rules, a request id, the access log.

One pure ASGI layer around the whole application, because here a layer costs a microsecond, and each of the framework's
own costs ten. The server's own `send` stays reachable as `scope["raw_send"]`: a stream announces itself through the
`send` that it was given, and then writes its frames without any layer in between.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any, Protocol

from litestar.types import ASGIApp, Message, Receive, Send

from llmchatbot.errors import AppError, FieldError, InternalError, InvalidInput
from llmchatbot.handlers.cors import CorsRules
from llmchatbot.handlers.deadlines import DEADLINE, Deadline
from llmchatbot.handlers.problems import plain_answer, plain_parts
from llmchatbot.handlers.security_headers import Headers, with_security_headers
from llmchatbot.observability import request_id as current_request

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("llmchatbot.access")

RAW_SEND = "raw_send"
# Among the scope's extensions: our own server's way to write a piece of a stream without a task that waits for it.
OUTLET = "outlet"
# A stream that a handler has made. It runs after the framework has returned: the framework's frames and the request
# would otherwise be kept for as long as the stream is open, 20 KB each.
STREAM_APPLICATION = "stream_application"
_KEPT = ("type", "method", "path_template", "extensions", RAW_SEND, STREAM_APPLICATION)
# Of a proxy in front of us: shown again, so that its log and ours can be laid side by side. No room for a line of log.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Anybody can make up more of them, and each would be a figure of its own.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ONE_HOST = InvalidInput("A request has one Host header.", errors=[FieldError("Host", "is sent exactly once")])
_QUIET = frozenset({"/health", "/health/ready", "/metrics", "/assets/{path}"})


class RequestObserver(Protocol):
    def __call__(self, route: str, method: str, status: int, seconds: float) -> None: ...


def refuse_plainly(error: AppError) -> tuple[Headers, bytes]:
    """For what never becomes a request: no head, too large a head, no HTTP."""
    headers, body = plain_parts(error)
    return with_security_headers(headers, []), body


def ignore_request(route: str, method: str, status: int, seconds: float) -> None:
    """For whoever counts nothing."""


class Outermost:
    """`app` with everything that is the same for all answers."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_timeout: float,
        route_timeout: float,
        cors: CorsRules | None = None,
        observe: RequestObserver = ignore_request,
        access_log: bool = True,
    ) -> None:
        self._app = app
        self._body_timeout = body_timeout
        self._route_timeout = route_timeout
        self._cors = cors
        self._observe = observe
        self._access_log = access_log
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        origin, hosts, more = self._prepare(scope)
        deadline = Deadline(scope, receive, body_timeout=self._body_timeout, route_timeout=self._route_timeout)
        scope[DEADLINE] = deadline
        scope[RAW_SEND] = send
        status = 0

        async def announce(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = with_security_headers(message["headers"], more)
            await send(message)

        try:
            if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):
                await plain_answer(announce, _ONE_HOST)
            elif scope["method"] == "OPTIONS" and self._cors is not None and self._cors.is_preflight(scope, origin):
                await self._cors.answer_preflight(announce)
            else:
                async with deadline.clock:
                    await self._app(scope, deadline.receive, announce)
                if STREAM_APPLICATION in scope:
                    scope = _without_request(scope)
                    await scope.pop(STREAM_APPLICATION)(scope, receive, announce)
        except Exception as error:
            refusal = self._refusal_for(error, deadline, scope)
            if status:
                # The server then breaks the connection, so that half an answer is not taken for a whole one.
                raise
            await plain_answer(announce, refusal)
        finally:
            self._note(scope, status, time.perf_counter() - begin)

    def _prepare(self, scope: Any) -> tuple[bytes, int, list[tuple[bytes, bytes]]]:
        """The origin, the number of Host lines, and headers for the answer."""
        origin, request_id, hosts = _look_at(scope["headers"])
        if request_id is None:
            request_id = f"{self._prefix}-{next(self._numbers):x}".encode()
        current_request.set(request_id.decode())
        more: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id)]
        if self._cors is not None:
            more += self._cors.headers_for(origin)
        return origin, hosts, more

    def _refusal_for(self, error: Exception, deadline: Deadline, scope: Any) -> AppError:
        """What the framework could not answer: a request out of time, or a fault that the server would swallow."""
        if isinstance(error, TimeoutError) and deadline.clock.expired():
            logger.warning("out of time: %s %s", scope["method"], _route_of(scope))
            return deadline.error()
        logger.error("unexpected error: %s", _route_of(scope), exc_info=error)
        return InternalError()

    def _note(self, scope: Any, status: int, seconds: float) -> None:
        route = _route_of(scope)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._observe(route, method, status, seconds)
        if self._access_log and route not in _QUIET:
            access_logger.info("%s %s %s %.1f ms", method, route, status, seconds * 1000)


def _without_request(scope: Any) -> dict[str, Any]:
    """What an open stream needs of its scope; headers, token and parsed state would be 4 KB for each of thousands."""
    kept = {name: scope[name] for name in _KEPT if name in scope}
    scope.clear()
    return kept


def _route_of(scope: Any) -> str:
    """The route's template: an address or a query may hold what people wrote."""
    return scope.get("path_template") or "unknown"


def _look_at(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes | None, int]:
    """Origin, request id and the number of Host lines, in one pass."""
    origin, request_id, hosts = b"", None, 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"origin":
            origin = value
        elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id = value
    return origin, request_id, hosts
