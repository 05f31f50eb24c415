"""Time limits of protocol §8: a body within 15 s, a route that is no stream within 10 s."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar.types import HTTPReceiveMessage, Receive

from llmchatbot.errors import AppError, BodyTimeout, RequestTimeout

# Streams set their own deadlines per frame.
STREAM = {"stream": True}
DEADLINE = "deadline"
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Deadline:
    """Of one request. The clock for the body runs first; the one for the route starts when the body is complete."""

    __slots__ = ("_complete", "_receive", "_route_timeout", "clock", "receive")

    def __init__(self, scope: Any, receive: Receive, *, body_timeout: float, route_timeout: float) -> None:
        self._route_timeout: float | None = route_timeout
        self._complete = scope["method"] not in _WITH_BODY or not _announces_body(scope["headers"])
        self._receive = receive
        self.receive: Receive = receive if self._complete else self._receive_body
        self.clock = asyncio.timeout(route_timeout if self._complete else body_timeout)

    def lift(self) -> None:
        """For a stream: once the body is there, it takes what it takes."""
        self._route_timeout = None
        if self._complete:
            self.clock.reschedule(None)

    def error(self) -> AppError:
        """What to tell whoever was too slow: us or the client."""
        return RequestTimeout() if self._complete else BodyTimeout()

    async def _receive_body(self) -> HTTPReceiveMessage:
        message: HTTPReceiveMessage = await self._receive()  # type: ignore[assignment]  # never a websocket
        if not self._complete and not message.get("more_body"):
            self._complete = True
            limit = self._route_timeout
            self.clock.reschedule(None if limit is None else asyncio.get_running_loop().time() + limit)
        return message


def _announces_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def lift_deadline(scope: Any) -> None:
    """Without effect where nobody set one."""
    deadline: Deadline | None = scope.get(DEADLINE)
    if deadline is not None:
        deadline.lift()
