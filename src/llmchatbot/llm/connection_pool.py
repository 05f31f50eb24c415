"""Opens connections to upstreams, and keeps a few for the next call."""

from __future__ import annotations

import asyncio
import ssl

from llmchatbot.errors import ModelUnavailable
from llmchatbot.llm.body import timed_out
from llmchatbot.llm.collector import Collector
from llmchatbot.llm.connections import Connection, DirectStream
from llmchatbot.llm.endpoint import Endpoint, origin_of
from llmchatbot.llm.http_request import HttpRequest, Origin, bytes_of, unreachable

_IDLE_SECONDS = 15.0
"""Younger than what servers and balancers keep an idle connection for, or the next call would break on it."""


class DirectConnections:
    """Opens connections, and keeps those that may serve once more."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        # The one that was used last stands last; it serves next, which lets the others grow old.
        self._kept: dict[Origin, list[Connection]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def open(self, request: HttpRequest, started: float) -> DirectStream:
        """Send the request and wait for the head of its answer; the caller limits the time of both.

        Raises ModelUnavailable, ModelTimeout for the connection, ModelProtocolError for what is no HTTP.
        """
        loop = asyncio.get_running_loop()
        origin = origin_of(request.url)
        data = bytes_of(request, origin)

        def keep(connection: Connection) -> None:
            if self._closed:
                connection.close()
            else:
                self._kept.setdefault(origin, []).append(connection)
                if self._sweep_timer is None:
                    self._sweep_timer = loop.call_later(_IDLE_SECONDS, self._sweep, loop)

        kept = self._take(origin, loop.time())
        while True:
            connection = kept or await self._connect(request.endpoint, origin, loop)
            stream = DirectStream(connection, request.endpoint, started, loop, keep)
            connection.ask(stream, data)
            try:
                await stream.head
            except ModelUnavailable:
                await stream.aclose()
                if kept is None:
                    raise
                # Closed from the other side, most likely when it was taken, so that nobody has read the request. Who
                # reads requests and then closes shall get this one no more than twice.
                kept = None
            except BaseException:
                await stream.aclose()
                raise
            else:
                return stream

    def _take(self, origin: Origin, now: float) -> Connection | None:
        kept = self._kept.get(origin, [])
        while kept:
            connection = kept.pop()
            if _good(connection, now):
                return connection
            connection.close()
        return None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what nobody has used for long: after a busy hour they would be hundreds, on both sides."""
        now = loop.time()
        for origin, kept in [*self._kept.items()]:
            left = []
            for connection in kept:
                if _good(connection, now):
                    left.append(connection)
                else:
                    connection.close()
            if left:
                self._kept[origin] = left
            else:
                del self._kept[origin]
        self._sweep_timer = loop.call_later(_IDLE_SECONDS, self._sweep, loop) if self._kept else None

    async def _connect(self, endpoint: Endpoint, origin: Origin, loop: asyncio.AbstractEventLoop) -> Connection:
        scheme, host, port = origin
        try:
            async with asyncio.timeout(endpoint.limits.connect):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._collector),
                    host,
                    port,
                    ssl=self._context() if scheme == "https" else None,
                )
        except TimeoutError as error:
            raise timed_out("connect", endpoint.limits) from error
        except (OSError, ssl.SSLError, UnicodeError) as error:
            raise unreachable(endpoint, error) from error
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    async def aclose(self) -> None:
        """Close what is kept. Idempotent."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        kept, self._kept = self._kept, {}
        for connections in kept.values():
            for connection in connections:
                await connection.aclose()


def _good(connection: Connection, now: float) -> bool:
    return connection.reusable and now - connection.idle_since < _IDLE_SECONDS
