"""One feed per person: what changed in chats and answers, so that a second device is never stale and never polls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from uuid import UUID

import msgspec

from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable, NotFound
from llmchatbot.models.generations import Cursor
from llmchatbot.repositories import user_events
from llmchatbot.streaming import payloads, wakeups
from llmchatbot.streaming.tails import Reader
from llmchatbot.streaming.wakeups import WakeUps

# Of one look. An event holds its chat, and that may hold a system prompt of 384 KB.
_READ_LIMIT = 500
_READ_CHARACTERS = 256 * 1024

Read = Callable[[int], Awaitable[Sequence[str]]]


class FeedSource:
    """The feed as one reader pulls it: what it has not taken yet, and a wake-up for more.

    The heartbeat wakes it too and makes it look: that is the slow poll behind lost wake-ups.
    """

    ended = False
    replaced = False

    def __init__(self, user_id: UUID, first: int, events: Sequence[str], read: Read) -> None:
        self.stream_id = str(user_id)
        self._first = first
        self._events = list(events)
        self._read = read
        self._waiter: asyncio.Future[None] | None = None
        # Something may have happened between the first look and the first wait.
        self._news = True

    @property
    def last(self) -> int:
        return self._first + len(self._events) - 1

    def since(self, seq: int, limit: int) -> Sequence[str]:
        taken = seq - self._first
        del self._events[:taken]
        self._first = seq
        return self._events[:limit]

    def wake(self) -> None:
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, reader: Reader | None = None) -> None:
        if not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._news = False
        try:
            events = await self._read(self.last)
        except DatabaseUnavailable:
            # The next heartbeat looks again.
            return
        self._events += events
        # What came back full may have been cut.
        self._news = self._news or len(events) >= _READ_LIMIT or sum(map(len, events)) >= _READ_CHARACTERS


class FeedReading(msgspec.Struct, frozen=True):
    source: FeedSource
    seq: int


class FeedService:
    def __init__(self, database: Database, wakeups: WakeUps) -> None:
        self._database = database
        self._wakeups = wakeups
        self._open: dict[str, set[FeedSource]] = {}

    def start(self) -> None:
        self._wakeups.subscribe(wakeups.USER_EVENT, self._on_user_event)

    def _on_user_event(self, payload: str) -> None:
        for source in self._open.get(payload, ()):
            source.wake()

    async def open(self, user_id: UUID, cursor: Cursor | None) -> FeedReading:
        """Without a cursor: from now on. Raises NotFound for a cursor of somebody else's feed.

        The first event names the place, so that a reader that saw nothing else can resume from it. Call `close` after.
        """
        if cursor is not None and cursor.generation_id != user_id:
            raise NotFound
        first, last = await user_events.bounds(self._database, user_id)
        if cursor is not None and first - 1 <= cursor.seq <= last:
            missed = await self._read(user_id, cursor.seq)
            source = self._source(user_id, cursor.seq + 1, missed)
            return FeedReading(source, cursor.seq)
        kind = "start" if cursor is None else "reset"
        source = self._source(user_id, last, [payloads.encode({"type": kind})])
        return FeedReading(source, last - 1)

    def _source(self, user_id: UUID, first: int, events: Sequence[str]) -> FeedSource:
        source = FeedSource(user_id, first, events, partial(self._read, user_id))
        self._open.setdefault(source.stream_id, set()).add(source)
        return source

    async def _read(self, user_id: UUID, after: int) -> list[str]:
        return await user_events.read(self._database, user_id, after, limit=_READ_LIMIT, enough=_READ_CHARACTERS)

    def close(self, source: FeedSource) -> None:
        sources = self._open.get(source.stream_id, set())
        sources.discard(source)
        if not sources:
            self._open.pop(source.stream_id, None)
