"""The listening socket, everybody who is connected, and one ticker that looks after all of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

from llmchatbot.errors import AppError
from llmchatbot.http_server.connection import Connection
from llmchatbot.http_server.exchange import Exchange, Headers

logger = logging.getLogger(__name__)

# Seconds between two looks at all connections. A timer for each would cost more than the connections themselves.
_TICK = 0.5
# Connections that the kernel keeps until we accept them.
BACKLOG = 4096

Application = Callable[[Any, Any, Any], Awaitable[None]]
Refusal = Callable[[AppError], tuple[Headers, bytes]]


class HttpServer:
    """Serves one ASGI application on a socket that is bound already, so that a busy port is the caller's message."""

    def __init__(
        self, application: Application, *, refusal: Refusal, head_seconds: float, head_bytes: int, send_seconds: float
    ) -> None:
        """`refusal` renders what is refused before the application is asked; times in seconds.

        Who sends no head for `head_seconds`, or takes nothing of his answers for `send_seconds`, is cut off.
        """
        self._application = application
        self.refusal = refusal
        self.head_bytes = head_bytes
        self._head_seconds = head_seconds
        self._send_seconds = send_seconds
        self.connections: set[Connection] = set()
        self.closing = False
        self.date = b""
        self.address: tuple[str, int] | None = None
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._listener: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, bound: socket.socket) -> None:
        """Accept from now on. The socket stays the caller's: its copy is used, and closed by `close`."""
        self._tick()
        host, port, *_ = bound.getsockname()
        self.address = str(host), int(port)
        self._listener = await self._loop.create_server(lambda: Connection(self), sock=bound.dup(), backlog=BACKLOG)

    def run(self, connection: Connection, exchange: Exchange, scope: dict[str, Any]) -> None:
        """Start the application for one request."""
        task = self._loop.create_task(self._run(connection, exchange, scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: Connection, exchange: Exchange, scope: dict[str, Any]) -> None:
        try:
            await self._application(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception:
            logger.exception("the application failed")
        if not exchange.complete and not exchange.lost:
            # Half an answer must not be taken for a whole one, and what was not taken by now never will be.
            connection.abort()

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK, self._tick)
        self.date = formatdate(usegmt=True).encode()
        now = self.now()
        for connection in tuple(self.connections):
            since = connection.waiting_since
            if since is not None and now - since >= self._head_seconds:
                connection.time_out()
            elif (connection.lingering_since or connection.unsent_since) and connection.stalls(now, self._send_seconds):
                connection.abort()

    def stop_accepting(self) -> None:
        """A refused connection goes to another node at once. Those that are idle end, the others after their answer."""
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self.connections):
            if connection.idle:
                connection.close()

    async def close(self, *, timeout: float) -> None:
        """Wait up to `timeout` seconds for the answers under way, then break what is left."""
        self.stop_accepting()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout)
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in tuple(self.connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout)
