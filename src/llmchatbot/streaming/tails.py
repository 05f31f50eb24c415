"""The end of the log that lives in memory: what readers of this process pull from, by cursor.

A tail holds stored events only. It is fed by this process's writer or, for answers made elsewhere, by a follower
that reads the database. Readers have no queue: a slow one costs its cursor, and a fast one is woken once per round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol
from uuid import UUID

from llmchatbot.streaming import payloads
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.payloads import TERMINAL


class Reader(Protocol):
    """Somebody who waits at the end of a source and may take what comes without being woken."""

    @property
    def wire(self) -> Format: ...

    def offer(self, first: int, count: int, frames: bytes) -> bool:
        """Take `count` events from `first` on, as its format writes them; False when it must be woken to look."""
        ...


class Tail:
    """Events `0..last` of one generation, as far as they are stored."""

    __slots__ = ("_only", "_waiters", "ended", "generation_id", "payloads", "replaced", "stream_id")

    def __init__(self, generation_id: UUID) -> None:
        self.generation_id = generation_id
        self.stream_id = str(generation_id)
        self.payloads: list[str] = []
        self.ended = False
        # Nobody feeds it any more: readers ask anew, here or at another process.
        self.replaced = False
        self._waiters: dict[asyncio.Future[None], Reader | None] = {}
        # The reader, when nobody else waits: nearly always, and one look instead of four.
        self._only: Reader | None = None

    @property
    def last(self) -> int:
        """Number of the newest stored event; -1 when there is none yet."""
        return len(self.payloads) - 1

    def since(self, seq: int, limit: int) -> Sequence[str]:
        return self.payloads[seq : seq + limit]

    def extend(self, first: int, payloads: Sequence[str]) -> None:
        """Take what was just stored. Events that are here already are passed over; a gap is a fault of ours."""
        at = len(self.payloads)
        known = at - first
        if known < 0:
            raise ValueError(f"events {at}..{first - 1} of {self.stream_id} are missing")
        if known >= len(payloads):
            return
        news = payloads[known:] if known else payloads
        self.payloads.extend(news)
        if news[-1].startswith(TERMINAL):
            # Readers look after the end by themselves.
            self.ended = True
            self.wake()
        elif (only := self._only) is not None:
            if not only.offer(at, len(news), only.wire.render(self.stream_id, at, news)):
                self.wake()
        elif self._waiters:
            self._offer(at, news)

    def _offer(self, first: int, news: Sequence[str]) -> None:
        """Give the news to the readers who take them at once, wake the others. What a reader raises is the caller's."""
        rendered: dict[Format, bytes] = {}
        for waiter, reader in tuple(self._waiters.items()):
            if reader is not None:
                if (frames := rendered.get(reader.wire)) is None:
                    frames = rendered[reader.wire] = reader.wire.render(self.stream_id, first, news)
                if reader.offer(first, len(news), frames):
                    continue
            self._leave(waiter)
            if not waiter.done():
                waiter.set_result(None)

    def wake(self) -> None:
        waiters, self._waiters, self._only = self._waiters, {}, None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, reader: Reader | None = None) -> None:
        """Until something was stored that `reader` did not take, or somebody calls `wake`: the caller looks again."""
        waiter = asyncio.get_running_loop().create_future()
        self._only = None if self._waiters else reader
        self._waiters[waiter] = reader
        try:
            await waiter
        finally:
            # Cut off, or its time ran out; whoever was woken has left before.
            self._leave(waiter)

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._only = next(iter(self._waiters.values())) if len(self._waiters) == 1 else None

    @property
    def watched(self) -> bool:
        return bool(self._waiters)


class Tails:
    """All tails of this process. One that ended stays while somebody may still ask, then `sweep` drops it."""

    def __init__(self) -> None:
        self._tails: dict[UUID, Tail] = {}
        self._ended_at: dict[UUID, float] = {}

    def __len__(self) -> int:
        return len(self._tails)

    def __iter__(self) -> Iterator[Tail]:
        return iter(tuple(self._tails.values()))

    def find(self, generation_id: UUID) -> Tail | None:
        return self._tails.get(generation_id)

    def open(self, generation_id: UUID) -> Tail:
        tail = self._tails.get(generation_id)
        if tail is None:
            tail = self._tails[generation_id] = Tail(generation_id)
        return tail

    def drop(self, generation_id: UUID) -> None:
        """Forget it; readers that hold it are woken, find it replaced and are sent to ask anew."""
        tail = self._tails.pop(generation_id, None)
        self._ended_at.pop(generation_id, None)
        if tail is not None:
            tail.replaced = True
            tail.wake()

    def sweep(self, now: float, *, keep: float) -> None:
        """Drop tails that ended more than `keep` seconds ago; later readers read the database."""
        for tail in self:
            if tail.ended:
                ended_at = self._ended_at.setdefault(tail.generation_id, now)
                if now - ended_at > keep:
                    self.drop(tail.generation_id)


class ResetView:
    """A tail as a reader sees it whose cursor lies beyond it: its newest event is a `reset` with the whole text."""

    def __init__(self, real: Tail, text: str) -> None:
        self.stream_id = real.stream_id
        self._real = real
        self._at = real.last
        self._payload = payloads.reset(text)

    @property
    def last(self) -> int:
        return self._real.last

    @property
    def ended(self) -> bool:
        return self._real.ended

    @property
    def replaced(self) -> bool:
        return self._real.replaced

    def since(self, seq: int, limit: int) -> Sequence[str]:
        events = list(self._real.since(seq, limit))
        if seq <= self._at < seq + len(events):
            events[self._at - seq] = self._payload
        return events

    async def wait(self, reader: Reader | None = None) -> None:
        # Nothing is offered: the numbers are those of the real one, but what stands under one of them is not.
        await self._real.wait()

    def wake(self) -> None:
        self._real.wake()


class Excerpt:
    """The finished end of a stream, from event `first` on, made for one reader."""

    ended = True
    replaced = False

    def __init__(self, stream_id: UUID, first: int, events: Sequence[str]) -> None:
        self.stream_id = str(stream_id)
        self._first = first
        self._events = events

    @property
    def last(self) -> int:
        return self._first + len(self._events) - 1

    def since(self, seq: int, limit: int) -> Sequence[str]:
        start = max(seq - self._first, 0)
        return self._events[start : start + limit]

    async def wait(self, reader: Reader | None = None) -> None:
        """Never called: what has ended is not waited for."""

    def wake(self) -> None:
        """Nobody waits."""
