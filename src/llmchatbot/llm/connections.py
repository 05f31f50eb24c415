"""HTTP/1.1 connections to upstreams: llhttp's parser in the callback of the network, and a few kept for the next call.

aiohttp's reader costs a task that wakes for each piece and a queue in between, 9 of a token's 36 µs (docs/adr/0010).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import zlib
from collections.abc import Callable
from typing import Any, cast

import httptools

from llmchatbot.errors import ModelError, ModelProtocolError, ModelUnavailable
from llmchatbot.llm.body import HttpStream, timed_out
from llmchatbot.llm.endpoint import Endpoint, origin_of
from llmchatbot.llm.http_request import HttpRequest, Origin, bytes_of, interrupted, not_http, unreachable

_HEAD_BYTES = 64 * 1024
_INFLATED_BYTES = 4 << 20
"""Of one piece: a bomb is no answer."""
_CLOSE_SECONDS = 1.0
_IDLE_SECONDS = 15.0
"""Younger than what servers and balancers keep an idle connection for, or the next call would break on it."""


class DirectStream(HttpStream):
    """One answer on one connection."""

    __slots__ = ("_connection", "_inflate", "_keep", "endpoint", "head")

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint,
        started: float,
        loop: asyncio.AbstractEventLoop,
        keep: Callable[[Connection], None],
    ) -> None:
        """`keep` takes the connection of a whole answer, for another call."""
        super().__init__(endpoint.limits, started, loop)
        self.endpoint = endpoint
        self.head: asyncio.Future[None] = loop.create_future()
        self._connection = connection
        self._keep = keep
        self._inflate: Any = None

    def feed_head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        # Asked not to; some do it all the same.
        if headers.get("content-encoding", "identity").lower() in {"gzip", "deflate"}:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
            self._unpack = self._unpacked
        if not self.head.done():
            self.head.set_result(None)

    def _unpacked(self, piece: bytes) -> bytes:
        try:
            unpacked: bytes = self._inflate.decompress(piece, _INFLATED_BYTES)
        except zlib.error:
            self.fail(ModelProtocolError("The model's service sent a body that cannot be unpacked."))
            return b""
        if self._inflate.unconsumed_tail:
            self.fail(ModelProtocolError("The model's service sent a body that is too large once unpacked."))
            return b""
        return unpacked

    def fail(self, error: ModelError) -> None:
        super().fail(error)
        if not self.head.done():
            self.head.set_exception(error)
            # Looked at by whoever waits for the head, if anybody still does.
            self.head.exception()

    def pause(self) -> None:
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    def flow(self) -> None:
        self._connection.delay_acknowledgements()

    async def aclose(self) -> None:
        """See `HttpStream.aclose`. After a whole answer the connection may serve another one."""
        await super().aclose()
        if not self._connection.leave(self):
            return
        if self.ended and self.endpoint.keep_alive and self._connection.reusable:
            self._keep(self._connection)
        else:
            await self._connection.aclose()


class Connection(asyncio.Protocol):
    """One socket; one call at a time."""

    __slots__ = (
        "_head_bytes",
        "_headers",
        "_keep",
        "_loop",
        "_parser",
        "_stream",
        "_transport",
        "_until_eof",
        "_whole",
        "closed",
        "idle_since",
        "on_body",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._stream: DirectStream | None = None
        self._parser: Any = None
        # The parser calls it: the stream's own, since a method in between would be one more call for each token.
        self.on_body: Callable[[bytes], None] = _ignore
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._until_eof = False
        self._whole = True
        self._keep = True
        self.idle_since = 0.0
        self.closed: asyncio.Future[None] = loop.create_future()

    @property
    def reusable(self) -> bool:
        """The answer was whole, and the other side goes on."""
        alive = self._transport is not None and not self._transport.is_closing() and not self.closed.done()
        return alive and self._stream is None and self._whole and self._keep

    def ask(self, stream: DirectStream, request: bytes) -> None:
        """Send a request; `stream` is fed with the answer."""
        assert self._transport is not None  # noqa: S101 # for the type checker: connected before it is handed out
        self._stream = stream
        self.on_body = stream.feed
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._head_bytes, self._until_eof, self._whole = {}, 0, False, False
        self._transport.write(request)

    def leave(self, stream: DirectStream) -> bool:
        """The stream is not read any more; False when it has left before."""
        if self._stream is not stream:
            return False
        self._stream = None
        self.on_body = _ignore
        self._parser = None
        self.idle_since = self._loop.time()
        return True

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def delay_acknowledgements(self) -> None:
        """Let the kernel acknowledge every second piece instead of each; where it cannot, nothing changes.

        The kernel takes a connection on which nothing is answered for a bulk transfer, and sends an acknowledgement
        with every read of a token: more than half of what the read costs. A sender that waits for them (Nagle's
        algorithm) meets that once per answer: when the kernel's timer had to send one, it goes back to its old way.
        """
        if self._transport is None or not hasattr(socket, "TCP_QUICKACK"):
            return
        plug = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    # Callbacks of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            # Nobody asked: such a connection is not used again.
            self._keep = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None and not self._whole:
            if self._until_eof and exc is None:
                self._stream.end()
            elif self._stream.head.done():
                self._stream.fail(interrupted())
            else:
                self._stream.fail(unreachable(self._stream.endpoint))
        if not self.closed.done():
            self.closed.set_result(None)

    def _fail(self) -> None:
        """What came is no answer. After the head it is a broken stream, before it something else than HTTP."""
        self._keep = False
        if self._stream is not None:
            self._stream.fail(interrupted() if self._stream.head.done() else not_http(self._stream.endpoint))
        self._parser = None

    # Callbacks of the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _HEAD_BYTES:
            raise ValueError("the head is too large")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            # 100 and 103 announce that the real head follows.
            self._headers = {}
            return
        self._keep = self._keep and self._parser.should_keep_alive()
        self._until_eof = not {"content-length", "transfer-encoding"} & self._headers.keys()
        if self._stream is not None:
            self._stream.feed_head(status, self._headers)

    def on_message_complete(self) -> None:
        if self._parser is not None and self._parser.get_status_code() >= 200:
            self._whole = True
            if self._stream is not None:
                self._stream.end()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        """Return once the socket is gone; even when cancelled meanwhile."""
        if self._transport is not None:
            # abort, not close: TLS would first say good-bye and wait for the other side's
            self._transport.abort()
            await _wait_shielded(self.closed)


class DirectConnections:
    """Opens connections, and keeps those that may serve once more."""

    def __init__(self) -> None:
        self._kept: dict[Origin, list[Connection]] = {}
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

        while True:
            kept = self._take(origin, loop.time())
            connection = kept or await self._connect(request.endpoint, origin, loop)
            stream = DirectStream(connection, request.endpoint, started, loop, keep)
            connection.ask(stream, data)
            try:
                await stream.head
            except ModelUnavailable:
                await stream.aclose()
                if kept is None:
                    raise
                # Closed from the other side just when it was taken: nobody has read the request.
            except BaseException:
                await stream.aclose()
                raise
            else:
                return stream

    def _take(self, origin: Origin, now: float) -> Connection | None:
        """The one that was used last, which frees the others to grow old."""
        kept = self._kept.pop(origin, [])
        good = [
            connection for connection in kept if connection.reusable and now - connection.idle_since < _IDLE_SECONDS
        ]
        for connection in kept:
            if connection not in good:
                connection.close()
        if len(good) > 1:
            self._kept[origin] = good[:-1]
        return good[-1] if good else None

    async def _connect(self, endpoint: Endpoint, origin: Origin, loop: asyncio.AbstractEventLoop) -> Connection:
        scheme, host, port = origin
        try:
            async with asyncio.timeout(endpoint.limits.connect):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop), host, port, ssl=self._context() if scheme == "https" else None
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
        kept, self._kept = self._kept, {}
        for connections in kept.values():
            for connection in connections:
                await connection.aclose()


def _ignore(piece: bytes) -> None:
    """A body that nobody asked for."""


async def _wait_shielded(closed: asyncio.Future[None]) -> None:
    waiter = asyncio.ensure_future(asyncio.wait({closed}, timeout=_CLOSE_SECONDS))
    try:
        await asyncio.shield(waiter)
    except asyncio.CancelledError:
        await waiter
        raise
