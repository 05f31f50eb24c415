"""Open streams: one reader each, pulling from a source by cursor, bounded in memory and in time.

A stream owns no generation: when its reader leaves, nothing happens to the answer. One ticker per process looks after
all streams (heartbeats, deadlines of `send`, revoked sessions, drain), because ten thousand timers would cost more
than the streams themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

from llmchatbot.clock import Clock
from llmchatbot.errors import RateLimited
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.tails import Reader

logger = logging.getLogger(__name__)

# A long replay goes out in pieces: each is one write that a slow reader must take in time. The server holds several of
# them for a reader that takes nothing: at 64 KiB such a reader costs 150 KiB, at 4 KiB below 64 (drill slow-readers).
_EVENTS_PER_WRITE = 256
_BYTES_PER_WRITE = 4 * 1024
# Whoever has too many streams open asks again after this: some of them may have ended by then.
_ROOM_AFTER_SECONDS = 5

Send = Callable[[bytes, bool], Awaitable[None]]


class Outlet(Protocol):
    """A reader's connection, for writes that need not wait."""

    @property
    def full(self) -> bool:
        """It takes nothing for now."""
        ...

    def push(self, data: bytes) -> None: ...


class Source(Protocol):
    """Numbered events that grow at the end: the tail of an answer, or the feed of a person."""

    stream_id: str

    @property
    def last(self) -> int: ...

    @property
    def ended(self) -> bool: ...

    @property
    def replaced(self) -> bool:
        """Nothing will come from it any more although it has not ended: ask for a new one."""
        ...

    def since(self, seq: int, limit: int) -> Sequence[str]:
        """Events from `seq` on."""
        ...

    async def wait(self, reader: Reader | None = None) -> None:
        """Until there is something to look at. A source may offer news to `reader` instead of returning."""
        ...

    def wake(self) -> None: ...


class Stream:
    """One reader. `run` returns when the source has ended, the reader is sent away, or one long-poll is answered."""

    __slots__ = (
        "_clock",
        "_send",
        "before_end",
        "delivered_end",
        "farewell",
        "gone",
        "heartbeat_due",
        "last_sent",
        "outlet",
        "sending_since",
        "seq",
        "session_id",
        "source",
        "task",
        "was_sent",
        "wire",
    )

    def __init__(
        self, source: Source, *, seq: int, wire: Format, send: Send, session_id: UUID | None, clock: Clock
    ) -> None:
        """`seq`: number of the last event that the reader has; -1 for none."""
        self.source = source
        self.seq = seq
        self.session_id = session_id
        self.task: asyncio.Task[None] | None = None
        self.farewell = False
        self.gone = False
        self.heartbeat_due = False
        self.sending_since: float | None = None
        self.last_sent = clock.monotonic()
        # Since the ticker looked last; a clock per frame would be one more call for each.
        self.was_sent = False
        self.delivered_end = False
        # Without one (another server than ours), every event wakes the task.
        self.outlet: Outlet | None = None
        # Awaited right before the last event of a source that has ended is written: a reader may act upon it at once.
        self.before_end: Callable[[], Awaitable[None]] | None = None
        self.wire = wire
        self._send = send
        self._clock = clock

    async def run(self, *, opening: bytes = b"", poll_seconds: float | None = None) -> None:
        """`opening` stands in the first block; with `poll_seconds` the stream ends with the first events."""
        head = opening
        sent = False
        deadline = None if poll_seconds is None else self._clock.monotonic() + poll_seconds
        while not self.gone:
            source = self.source
            if self.farewell or (source.replaced and not source.ended and source.last <= self.seq):
                # Has a pause of its own: a block with that of the opening too would name two.
                await self._write(self.wire.farewell(source.stream_id, self.seq))
                return
            if source.last > self.seq:
                payloads = self._next_piece(source)
                if self.before_end is not None and source.ended and self.seq + len(payloads) >= source.last:
                    await self.before_end()
                await self._write(head + self.wire.render(source.stream_id, self.seq + 1, payloads))
                head, sent = b"", True
                self.seq += len(payloads)
                if source.ended and self.seq >= source.last:
                    # The server takes writes for a connection that is closed, so this is asked, not assumed.
                    self.delivered_end = not self.gone
                    return
            elif source.ended:
                return
            elif self.heartbeat_due:
                await self._write(self.wire.heartbeat)
            elif deadline is not None:
                rest = deadline - self._clock.monotonic()
                if sent or rest <= 0:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(source.wait(), rest)
            else:
                # What is offered is written without the opening, so the first block is not taken that way.
                await source.wait(self if self.outlet is not None and not head else None)

    def offer(self, first: int, count: int, frames: bytes) -> bool:
        """The short way of nearly every token: no task wakes, and the frame was made once for all readers.

        Whatever else this reader must look at (`gone`, `farewell`, `heartbeat_due`) comes with a `wake`, after which
        nothing is offered to it until it has looked and waits again.
        """
        outlet = self.outlet
        if outlet is None or outlet.full or self.seq + 1 != first:
            return False
        outlet.push(frames)
        self.seq += count
        self.was_sent = True
        return True

    def leave(self) -> None:
        """The reader has closed its connection."""
        self.gone = True
        self.source.wake()

    def _next_piece(self, source: Source) -> Sequence[str]:
        payloads = source.since(self.seq + 1, _EVENTS_PER_WRITE)
        size = 0
        for count, payload in enumerate(payloads):
            size += len(payload)
            if size > _BYTES_PER_WRITE and count:
                return payloads[:count]
        return payloads

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        self.sending_since = self._clock.monotonic()
        self.heartbeat_due = False
        await self._send(data, True)
        self.last_sent = self._clock.monotonic()
        self.sending_since = None


class OpenStreams:
    """All streams of this process, and the one ticker that looks after them."""

    def __init__(self, clock: Clock, *, heartbeat_seconds: float, send_seconds: float, most_per_device: int) -> None:
        self._clock = clock
        self._heartbeat_seconds = heartbeat_seconds
        self._send_seconds = send_seconds
        self._streams: set[Stream] = set()
        self._most_per_device = most_per_device
        self._per_device: Counter[UUID | None] = Counter()
        self._draining = False

    def __len__(self) -> int:
        return len(self._streams)

    def require_room(self, session_id: UUID) -> None:
        """One device must not use up the connections of all. Raises RateLimited."""
        if self._per_device[session_id] >= self._most_per_device:
            raise RateLimited(
                f"This device has {self._most_per_device} streams open; close some of them.",
                retry_after=_ROOM_AFTER_SECONDS,
            )

    def add(self, stream: Stream) -> None:
        self._streams.add(stream)
        self._per_device[stream.session_id] += 1
        stream.task = asyncio.current_task()
        stream.farewell = self._draining

    def remove(self, stream: Stream) -> None:
        self._streams.discard(stream)
        stream.task = None
        self._per_device[stream.session_id] -= 1
        if not self._per_device[stream.session_id]:
            del self._per_device[stream.session_id]

    def session_ids(self) -> set[UUID]:
        return {stream.session_id for stream in self._streams if stream.session_id is not None}

    def close_session(self, session_id: UUID) -> None:
        """The device was logged out: its streams end now, without a word that invites to come back."""
        for stream in tuple(self._streams):
            if stream.session_id == session_id and stream.task is not None:
                stream.task.cancel()

    def drain(self) -> None:
        """Send every reader elsewhere, now and from now on."""
        self._draining = True
        for stream in tuple(self._streams):
            stream.farewell = True
            stream.source.wake()

    def tick(self) -> None:
        """Once a second: heartbeats for the silent, an end for those that do not take what they are sent."""
        now = self._clock.monotonic()
        for stream in tuple(self._streams):
            if stream.was_sent:
                stream.was_sent, stream.last_sent = False, now
            if stream.sending_since is not None:
                if now - stream.sending_since > self._send_seconds and stream.task is not None:
                    logger.info("a reader took nothing for %.0f s; its stream is closed", self._send_seconds)
                    stream.task.cancel()
            elif now - stream.last_sent >= self._heartbeat_seconds:
                stream.heartbeat_due = True
                stream.source.wake()
