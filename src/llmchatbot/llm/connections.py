"""An HTTP/1.1 connection to an upstream: llhttp's parser in the callback of the network.

aiohttp's reader costs a task that wakes for each piece and a queue in between, 9 of a token's 36 µs (docs/adr/0010).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import Callable
from typing import Any, cast

import httptools

from llmchatbot.errors import ModelError, ModelProtocolError
from llmchatbot.llm.body import HttpStream
from llmchatbot.llm.collector import Collector
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.http_request import interrupted, not_http, unreachable

_HEAD_BYTES = 64 * 1024
_HEADER_LINES = 256
_INFLATED_BYTES = 4 << 20
"""Of one piece: a bomb is no answer."""
_CLOSE_SECONDS = 1.0


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
        self._connection.flow()

    def ebb(self) -> None:
        self._connection.ebb()

    async def aclose(self) -> None:
        """See `HttpStream.aclose`. After a whole answer the connection may serve another one."""
        await super().aclose()
        if not self._connection.leave(self):
            return
        # Paused: nobody would read the next answer on it.
        if self.ended and not self._paused and self.endpoint.keep_alive and self._connection.reusable:
            self._keep(self._connection)
        else:
            await self._connection.aclose()


class Connection(asyncio.Protocol):
    """One socket; one call at a time."""

    __slots__ = (
        "_collector",
        "_descriptor",
        "_head_bytes",
        "_headers",
        "_in_head",
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

    def __init__(self, loop: asyncio.AbstractEventLoop, collector: Collector) -> None:
        self._loop = loop
        self._collector = collector
        # While the collector reads it instead of the transport.
        self._descriptor: int | None = None
        self._transport: asyncio.Transport | None = None
        self._stream: DirectStream | None = None
        self._parser: Any = None
        # The parser calls it: the stream's own, since a method in between would be one more call for each token.
        self.on_body: Callable[[bytes], None] = _ignore
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._in_head = False
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
        self._in_head = True
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
        if self._descriptor is None and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._descriptor is None and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def flow(self) -> None:
        """Many small pieces will come. TLS is the transport's, which must read it by itself."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._descriptor is not None:
            return
        plug = transport.get_extra_info("socket")
        self._delay_acknowledgements(plug)
        if transport.get_extra_info("sslcontext") is None and self._collector.add(plug.fileno(), self):
            self._descriptor = plug.fileno()
            transport.pause_reading()

    def ebb(self) -> None:
        """The transport reads by itself again, if it did not."""
        if self._descriptor is not None:
            self._leave_collector()
            self.resume()

    def _leave_collector(self) -> None:
        if self._descriptor is not None:
            self._collector.remove(self._descriptor, self)
            self._descriptor = None

    @staticmethod
    def _delay_acknowledgements(plug: Any) -> None:
        """Let the kernel acknowledge every second piece instead of each; where it cannot, nothing changes.

        The kernel takes a connection on which nothing is answered for a bulk transfer, and sends an acknowledgement
        with every read of a token: more than half of what the read costs. A sender that waits for them (Nagle's
        algorithm) meets that once per answer: when the kernel's timer had to send one, it goes back to its old way.
        """
        if not hasattr(socket, "TCP_QUICKACK"):
            return
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
            return
        if self._in_head:
            # The parser speaks of whole lines alone, and one may have no end.
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._fail()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_collector()
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
        if len(self._headers) >= _HEADER_LINES:
            raise ValueError("the head has too many lines")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            # 100 and 103 announce that the real head follows.
            self._headers = {}
            return
        self._in_head = False
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
        self._leave_collector()
        if self._transport is not None:
            # abort, not close: TLS would first say good-bye and wait for the other side's
            self._transport.abort()

    async def aclose(self) -> None:
        """Return once the socket is gone; even when cancelled meanwhile."""
        self.close()
        if self._transport is not None:
            await _wait_shielded(self.closed)


def _ignore(piece: bytes) -> None:
    """A body that nobody asked for."""


async def _wait_shielded(closed: asyncio.Future[None]) -> None:
    waiter = asyncio.ensure_future(asyncio.wait({closed}, timeout=_CLOSE_SECONDS))
    try:
        await asyncio.shield(waiter)
    except asyncio.CancelledError:
        await waiter
        raise
