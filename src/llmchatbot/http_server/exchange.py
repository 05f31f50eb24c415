"""One request and its answer, as ASGI sees them; and a stream's short way to the socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

# Bytes of a body that wait for the application before the client is told to pause.
_BODY_BUFFER = 64 * 1024
# Bytes of an answer that are written at once.
_PIECE = 64 * 1024

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT.value, HTTPStatus.NOT_MODIFIED.value})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINE_BREAK = re.compile(rb"[\r\n\x00]")
_DISCONNECT = {"type": "http.disconnect"}

Headers = list[tuple[bytes, bytes]]


class Peer(Protocol):
    """What an exchange needs of its connection."""

    @property
    def date(self) -> bytes: ...

    @property
    def write(self) -> Callable[[bytes], None]: ...

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...

    def over(self, exchange: Exchange) -> None: ...

    def drop_parser(self) -> None: ...


class Exchange:
    """`receive` and `send` are its ASGI ends; `full` and `push` are for streams, which write thousands of times."""

    __slots__ = (
        "_body",
        "_body_complete",
        "_body_taken",
        "_chunked",
        "_drained",
        "_expects_continue",
        "_head",
        "_http_1_0",
        "_left",
        "_loop",
        "_peer",
        "_waiter",
        "_without_body",
        "_write",
        "complete",
        "full",
        "keep_alive",
        "lost",
        "started",
    )

    def __init__(self, peer: Peer, *, method: str, http_1_0: bool, keep_alive: bool, expects_continue: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._write = peer.write
        self._http_1_0 = http_1_0
        self._without_body = method == "HEAD"
        self._expects_continue = expects_continue
        self._body = bytearray()
        self._body_complete = False
        self._body_taken = False
        self._waiter: asyncio.Future[Any] | None = None
        self._drained: asyncio.Future[None] | None = None
        # Chunks are written now: not before the head, and not after the end.
        self._chunked = False
        self._head = b""
        self._left = 0
        self.keep_alive = keep_alive
        self.started = False
        """The head of the answer was written."""
        self.complete = False
        """The answer was written to its end."""
        self.lost = False
        """The client has gone."""
        self.full = False
        """The socket takes nothing for now: what is pushed would pile up here."""

    # The connection's side.

    def feed(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self.complete:
            return
        self._body += piece
        if len(self._body) > _BODY_BUFFER:
            self._peer.pause_reading()
        self._answer_waiter()

    def feed_end(self) -> None:
        """The request is whole."""
        self._body_complete = True
        self._answer_waiter()

    @property
    def body_complete(self) -> bool:
        return self._body_complete

    def lose(self) -> None:
        """The connection is gone."""
        self.lost = True
        self._chunked = False
        self.release()
        self._answer_waiter()

    def release(self) -> None:
        """The socket takes more again."""
        self.full = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # The application's side.

    def receive(self) -> asyncio.Future[Any]:
        """ASGI's `receive`. A future, not a coroutine: whoever watches for a disconnect needs no task for it."""
        future: asyncio.Future[Any] = self._loop.create_future()
        message = self._message()
        if message is not None:
            future.set_result(message)
            return future
        if self._expects_continue and not self.started:
            self._expects_continue = False
            self._write(_CONTINUE)
        self._waiter = future
        return future

    def _message(self) -> dict[str, Any] | None:
        if self.lost or self.complete:
            return _DISCONNECT
        if self._body_taken or not (self._body or self._body_complete):
            return None
        body = bytes(self._body)
        self._body.clear()
        self._body_taken = self._body_complete
        if not self._body_complete:
            self._peer.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    def _answer_waiter(self) -> None:
        waiter = self._waiter
        if waiter is None:
            return
        if waiter.done():
            self._waiter = None
            return
        message = self._message()
        if message is not None:
            self._waiter = None
            waiter.set_result(message)

    async def send(self, message: Any) -> None:
        """ASGI's `send`. Waits while the client takes nothing; for one that has gone it does nothing."""
        await self._room()
        if self.lost:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
        else:
            await self._send_body(message.get("body", b""), last=not message.get("more_body", False))

    async def _send_body(self, body: bytes, *, last: bool) -> None:
        """In pieces: many who take nothing must not have a whole long answer each waiting here."""
        start = 0
        while len(body) - start > _PIECE:
            self._write_body(body[start : start + _PIECE])
            start += _PIECE
            await self._room()
            if self.lost:
                return
        self._write_body(body[start:])
        if last:
            self._finish()

    async def _room(self) -> None:
        """Return once the client takes something, or has gone."""
        while self.full and not self.lost:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await self._drained

    def write_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """An answer that no application gives."""
        self._start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self._write_body(body)
        self._finish()

    def push(self, data: bytes) -> None:
        """A piece of a streamed body, without waiting: only while not `full`, and after the head."""
        if self._chunked:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
        elif not self.lost:
            self._write_body(data)

    def _start(self, status: int, headers: Headers) -> None:
        if self.started:
            raise RuntimeError("the head of the answer was written before")
        self.started = True
        parts = [_STATUS_LINES[status], b"date: ", self._peer.date, b"\r\n"]
        length: int | None = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            if _LINE_BREAK.search(value):
                raise ValueError(f"the header {name.decode()} of an answer holds a line break")
            parts += (name, b": ", value, b"\r\n")
        self._without_body = self._without_body or status in _WITHOUT_BODY
        # A client that still sends its body is not understood after an early answer.
        self.keep_alive = self.keep_alive and self._body_complete
        self._frame(length, parts)
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        elif self._http_1_0:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        if length is None:
            self._write(b"".join(parts))
        else:
            # Its body follows at once, and one write is one system call.
            self._head = b"".join(parts)

    def _frame(self, length: int | None, parts: list[bytes]) -> None:
        """How the end of the body is told: by its length, by chunks, or (HTTP/1.0) by the end of the connection."""
        self._left = length or 0
        if length is None and not self._without_body:
            self._peer.drop_parser()
            if self._http_1_0:
                self.keep_alive = False
            else:
                parts.append(b"transfer-encoding: chunked\r\n")
                self._chunked = True

    def _write_body(self, data: bytes) -> None:
        if not self.started or self.complete:
            raise RuntimeError("a body belongs between the head and the end of an answer")
        if not data or self._without_body:
            return
        if self._chunked:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        self._left -= len(data)
        head, self._head = self._head, b""
        self._write(head + data)

    def _finish(self) -> None:
        if self._chunked:
            self._write(b"0\r\n\r\n")
            self._chunked = False
        elif self._left and not self._without_body and self.keep_alive:
            raise RuntimeError("the body has another length than its head said")
        if self._head:
            self._write(self._head)
        self.complete = True
        self._answer_waiter()
        self._peer.over(self)
