"""The body of one answer of an upstream, under the time limits: read piece by piece, or relayed as it comes.

Relaying is for the thousands of pieces of an answer once it flows: what arrives is handed on within the callback of the
network, without a task that wakes for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

from llmchatbot.errors import ModelError, ModelTimeout
from llmchatbot.llm.endpoint import TimeLimits

# Bytes that wait for whoever reads piece by piece, before the upstream is made to pause.
_BUFFER = 256 * 1024

Which = Literal["connect", "first_byte", "chunk", "whole"]
_LIMIT_NAMES: dict[Which, str] = {
    "connect": "connection",
    "first_byte": "first byte",
    "chunk": "next piece",
    "whole": "end of the answer",
}

Take = Callable[[bytes], bool]
"""Gets a piece; True when it needs no more."""


def timed_out(which: Which, limits: TimeLimits) -> ModelTimeout:
    """The error for one of the four limits; `extra["limit"]` says which."""
    seconds: float = getattr(limits, which)
    return ModelTimeout(
        f"The model's {_LIMIT_NAMES[which]} did not come within {seconds:g} s.",
        extra={"limit": which, "seconds": seconds},
    )


class HttpStream:
    """An answer whose body is fed by a connection (`feed`, `end`, `fail`) and read by one reader.

    One timer per call, not per piece: it looks when the reader began to wait and sleeps again if that was lately.
    """

    # Slots here and in all that a token passes: thousands of streams take turns, and each line of memory that one of
    # them touches comes from far away.
    __slots__ = (
        "_chunk_limit",
        "_error",
        "_first_at",
        "_got_first",
        "_limits",
        "_loop",
        "_paused",
        "_pieces",
        "_size",
        "_take",
        "_timer",
        "_unpack",
        "_waiter",
        "_waiting_since",
        "_whole_at",
        "closed",
        "ended",
        "headers",
        "status",
    )

    def __init__(self, limits: TimeLimits, started: float, loop: asyncio.AbstractEventLoop) -> None:
        """`started`: when the call began, by the loop's clock."""
        self.status = 0
        self.headers: Mapping[str, str] = {}
        """Names in lower case."""
        self._limits = limits
        self._loop = loop
        self._chunk_limit = limits.chunk
        self._whole_at = started + limits.whole
        self._first_at = min(started + limits.first_byte, self._whole_at)
        self._waiting_since: float | None = None
        self._got_first = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._paused = False
        self._take: Take | None = None
        # For a body that came packed; fails the stream and gives nothing when it cannot.
        self._unpack: Callable[[bytes], bytes] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: ModelError | None = None
        self.ended = False
        """The body came to its proper end."""
        self.closed = False
        """Nobody reads it any more."""
        self._timer = loop.call_at(self._first_at, self._check)

    # The connection's side.

    def feed(self, piece: bytes) -> None:
        """A piece of the body has arrived. Runs once per token."""
        if self._unpack is not None:
            piece = self._unpack(piece)
            if not piece:
                return
        if not self._got_first:
            self._got_first = True
            self._look_again_in(self._chunk_limit)
        take = self._take
        if take is not None:
            self._waiting_since = self._loop.time()
            try:
                enough = take(piece)
            except Exception as error:  # it is the reader's, who waits for it in `relay`
                self._stop_relaying(error)
            else:
                if enough:
                    self._stop_relaying(None)
            return
        if self.closed:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > _BUFFER and not self._paused:
            self._paused = True
            self.pause()
        self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.ended = True
        self._wake()

    def fail(self, error: ModelError) -> None:
        """Nothing more will come; what came before is still read first."""
        if not self.ended and self._error is None:
            self._error = error
            self._wake()

    def pause(self) -> None:
        """Called when too much waits: let the upstream wait too."""

    def resume(self) -> None:
        """Called when there is room again."""

    def flow(self) -> None:
        """Called when relaying begins: many small pieces will come, each soon after the other."""

    def ebb(self) -> None:
        """Called when relaying ends."""

    def _stop_relaying(self, error: Exception | None) -> None:
        self._take = None
        if error is None:
            self._wake()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The reader's side.

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; b"" at the proper end of the body.

        Raises ModelTimeout for a limit passed, ModelInterrupted when the connection broke.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            await self._wait()
        return self._taken()

    async def relay(self, take: Take) -> None:
        """Hand everything to `take` as it comes, until it needs no more or the body is over.

        Raises what `take` raised, else as `read` does.
        """
        if self._pieces and take(self._taken()):
            return
        if self._error is None and not self.ended:
            self._take = take
            self.flow()
            try:
                await self._wait()
            finally:
                self._take = None
                self.ebb()
        if self._error is not None:
            raise self._error

    async def read_all(self, limit: int) -> bytes:
        """Read the body up to `limit` bytes, for refusals and small documents."""
        parts: list[bytes] = []
        size = 0
        while size < limit:
            chunk = await self.read()
            if not chunk:
                break
            parts.append(chunk)
            size += len(chunk)
        return b"".join(parts)[:limit]

    def expect_end(self, seconds: float) -> None:
        """The answer's end was announced: wait no longer than `seconds` for each further piece."""
        if seconds < self._chunk_limit:
            self._chunk_limit = seconds
            self._look_again_in(seconds)

    async def aclose(self) -> None:
        """Close the connection and return once the socket is gone; even when cancelled meanwhile. Idempotent."""
        self.closed = True
        self._timer.cancel()

    async def _wait(self) -> None:
        self._waiting_since = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._waiting_since = None

    def _taken(self) -> bytes:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if self._paused:
            self._paused = False
            self.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _look_again_in(self, seconds: float) -> None:
        """The limit became shorter than what the timer was set for."""
        self._timer.cancel()
        self._timer = self._loop.call_at(min(self._loop.time() + seconds, self._whole_at), self._check)

    def _check(self) -> None:
        """Fail by the limit that has passed, or look again when the next one could pass."""
        now = self._loop.time()
        which: Which | None = None
        if now >= self._whole_at:
            which = "whole"
        elif not self._got_first:
            which = "first_byte" if now >= self._first_at else None
        elif self._waiting_since is not None and now - self._waiting_since >= self._chunk_limit:
            which = "chunk"
        if which is not None:
            self.fail(timed_out(which, self._limits))
            return
        since = now if self._waiting_since is None else self._waiting_since
        due = self._first_at if not self._got_first else since + self._chunk_limit
        self._timer = self._loop.call_at(min(due, self._whole_at), self._check)
