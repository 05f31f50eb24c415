"""One connection: bytes to requests by llhttp, one answer after the other, limits before an application is bothered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import httptools

from llmchatbot.errors import AppError, HeadTimeout, HeadTooLarge, InvalidInput
from llmchatbot.http_server.exchange import Exchange, Headers
from llmchatbot.http_server.heads import cause_of, size_of, split_target

if TYPE_CHECKING:
    from llmchatbot.http_server.server import HttpServer

logger = logging.getLogger(__name__)

# Requests that may wait for the answer before theirs; who sends more at once is cut off after these.
_PIPELINED = 16
_HEADER_LINES = 100
# What the kernel does not take is kept here for a reader at the most, before its stream is made to wait.
_WRITE_BUFFER = 32 * 1024
# Seconds in which a client may still send a body that was refused, so that it can read why.
_LINGER_SECONDS = 2.0


class Connection(asyncio.Protocol):
    """Everything is a callback; the only tasks are those of the applications."""

    __slots__ = (
        "_current",
        "_deaf",
        "_expects_continue",
        "_head_bytes",
        "_headers",
        "_in_head",
        "_parser",
        "_queue",
        "_receiving",
        "_server",
        "_target",
        "_transport",
        "_unframed_bytes",
        "_unsent_bytes",
        "client",
        "lingering_since",
        "unsent_since",
        "waiting_since",
        "write",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        # None while there is nothing to parse: an open stream has no use for it, and there are thousands of them.
        self._parser: Any = None
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by the first callback
        self._current: Exchange | None = None
        self._receiving: Exchange | None = None
        self._queue: list[tuple[Exchange, dict[str, Any]]] = []
        # What still comes is not read: the connection ends with the answer under way.
        self._deaf = False
        # The transport's own, once there is one: a method in between would be one more call for each frame.
        self.write: Callable[[bytes], None] = _write_nowhere
        self._begin_head()
        self._in_head = False
        self.client: tuple[str, int] | None = None
        self.waiting_since: float | None = server.now()
        """Since when the head of a request is waited for."""
        self.lingering_since: float | None = None
        """Since when only the rest of a refused body is swallowed."""
        self.unsent_since: float | None = None
        """Since when the client takes nothing of what waits for it, if it is much or the last."""
        self._unsent_bytes = 0
        # Of a request whose body goes on, since the last piece of it: trailers and what is said beside a chunk's size.
        self._unframed_bytes = 0

    def _begin_head(self) -> None:
        self._in_head = True
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._expects_continue = False

    # Callbacks of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.write = self._transport.write
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self.client = _address(transport.get_extra_info("peername"))
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._parser, self._deaf = None, True
        for exchange in (self._current, *(waiting for waiting, _ in self._queue)):
            if exchange is not None:
                exchange.lose()
        self._queue.clear()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        self._unframed_bytes += len(data)
        # Where a head begins in the middle of what was read, its bytes there are not told apart, and not counted.
        counts = self._in_head or self._receiving is None or self._receiving.body_complete
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An offer that may be ignored (RFC 9110 §7.8): answered as it is, and then the connection ends.
            if self._receiving is not None:
                self._receiving.keep_alive = False
            self._deaf = True
        except httptools.HttpParserError as error:
            self._refuse(cause_of(error, data))
            return
        if self._in_head and counts:
            self._head_bytes += len(data)
            if self._head_bytes > self._server.head_bytes:
                self._refuse(HeadTooLarge())
        elif self._unframed_bytes > self._server.head_bytes and self._body_goes_on:
            self._refuse(HeadTooLarge())

    @property
    def _body_goes_on(self) -> bool:
        return self._receiving is not None and not self._receiving.body_complete

    def eof_received(self) -> bool:
        """Whoever closes his half has gone: an answer is not worth making for nobody."""
        return False

    def pause_writing(self) -> None:
        self._wait_for_client()
        if self._current is not None:
            self._current.full = True

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self.unsent_since = None
        if self._current is not None:
            self._current.release()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        self._begin_head()

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if len(self._headers) >= _HEADER_LINES:
            raise HeadTooLarge
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if size_of(self._target, self._headers) > self._server.head_bytes:
            raise HeadTooLarge
        parser = self._parser
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        scope = self._scope(method, version)
        exchange = Exchange(
            self,
            method=method,
            http_1_0=version == "1.0",
            keep_alive=parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        scope["extensions"] = {"outlet": exchange}
        self._unframed_bytes = 0
        # From here on they are the application's, which may let go of them.
        self._headers, self._target = [], b""
        self._in_head = False
        self.waiting_since = None
        self._receiving = exchange
        if self._current is None:
            self._run(exchange, scope)
        elif len(self._queue) < _PIPELINED:
            self.pause_reading()
            self._queue.append((exchange, scope))
        else:
            raise InvalidInput("Too many requests at once on one connection.")

    def _run(self, exchange: Exchange, scope: dict[str, Any]) -> None:
        # The transport says once that it takes no more: not again to each answer that follows.
        exchange.full = self.unsent_since is not None
        self._current = exchange
        self._server.run(self, exchange, scope)

    def on_body(self, piece: bytes) -> None:
        self._unframed_bytes = 0
        if self._receiving is not None:
            self._receiving.feed(piece)

    def on_message_complete(self) -> None:
        if self._receiving is not None:
            self._receiving.feed_end()

    def drop_parser(self) -> None:
        """The answer under way is a stream: until something comes from the client, nothing is parsed."""
        if not self._in_head and self._receiving is not None and self._receiving.body_complete:
            self._parser = None

    def _scope(self, method: str, version: str) -> dict[str, Any]:
        path, query = split_target(self._target)
        try:
            decoded = unquote_to_bytes(path).decode() if b"%" in path else path.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidInput("The address is not text.") from None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": version,
            "method": method,
            "scheme": "http",
            "path": decoded,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self.client,
            "server": self._server.address,
            "state": {},
        }

    # For exchanges (`Peer`) and the server.

    @property
    def date(self) -> bytes:
        return self._server.date

    @property
    def idle(self) -> bool:
        """Nobody waits for an answer on it."""
        return self._current is None

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing() and not self._queue:
            self._transport.resume_reading()

    def over(self, exchange: Exchange) -> None:
        """The answer is written."""
        self._current = None
        if not exchange.body_complete:
            self._linger()
        elif not exchange.keep_alive:
            self.close()
        elif self._queue:
            following, scope = self._queue.pop(0)
            self._run(following, scope)
            if not following.body_complete:
                self.resume_reading()
        elif self._server.closing:
            self.close()
        else:
            self.waiting_since = self._server.now()
            self.resume_reading()

    def close(self) -> None:
        """Once the client has taken what is written; see `stalls`."""
        self.waiting_since = None
        self._transport.close()
        self._wait_for_client()

    def _wait_for_client(self) -> None:
        self.unsent_since = self._server.now()
        self._unsent_bytes = self._transport.get_write_buffer_size()

    def stalls(self, now: float, seconds: float) -> bool:
        """Whether the client has taken nothing for so long, although something waits for it, or has lingered enough."""
        if self.lingering_since is not None:
            return now - self.lingering_since >= _LINGER_SECONDS
        waiting = self._transport.get_write_buffer_size()
        if waiting != self._unsent_bytes:
            self._unsent_bytes, self.unsent_since = waiting, now
        return self.unsent_since is not None and now - self.unsent_since >= seconds

    def abort(self) -> None:
        """At once, without what was not taken yet."""
        self._transport.abort()

    def time_out(self) -> None:
        """The head did not come in time; whoever sent a part of it is told."""
        if self._in_head and self._head_bytes:
            self._refuse(HeadTimeout())
        else:
            self.close()

    def _refuse(self, error: AppError) -> None:
        """Answer without an application and close; after the answer under way, if there is one."""
        self._deaf = True
        logger.info("refused at the door: %s", error.code)
        current, self._current = self._current, None
        if current is not None and (current.started or current.body_complete):
            # Another answer in between would be read as a part of it.
            current.keep_alive = False
            self._current = current
            return
        if current is not None:
            current.lose()
        exchange = Exchange(self, method="GET", http_1_0=False, keep_alive=False, expects_continue=False)
        headers, body = self._server.refusal(error)
        # Its request is not whole, so what is left of it is swallowed before the connection ends.
        exchange.write_whole(error.status, headers, body)

    def _linger(self) -> None:
        """Closing with unread bytes in the socket resets it, and the client may never see its answer."""
        self._deaf = True
        self.waiting_since = None
        self.lingering_since = self._server.now()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()


def _write_nowhere(data: bytes) -> None:
    """Before there is a transport nothing is written."""


def _address(name: Any) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
