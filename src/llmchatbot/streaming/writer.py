"""The one writer of a process: all pending events of all its answers, one statement per round (protocol §5).

Paced, not triggered: at 20 ms a round the price of a statement is shared by everything that arrived meanwhile, and
the delay that a reader sees stays below what a person can. When the database is away, events wait in memory and are
stored again once it is back; a commit whose answer was lost is harmless, because the key of an event is its number.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from uuid import UUID

from llmchatbot.clock import Clock
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.store import Batch, Store

logger = logging.getLogger(__name__)

# PostgreSQL flushes asynchronous commits within three times wal_writer_delay (0.6 s). If its server is killed, the
# rounds of this many seconds may be gone although they were acknowledged, so they are stored once more.
_REPLAY_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

# Seconds before a round in which what has come is read: longer than reading takes, so the round finds little.
_LEAD = 0.003

StoredCallback = Callable[[list[Draft]], None]


class Writer:
    """Drafts are marked with `touch`; `settle` waits until everything of one draft is stored."""

    def __init__(self, store: Store, clock: Clock, *, node_id: Callable[[], UUID], round_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._node_id = node_id
        self._round_seconds = round_seconds
        self._dirty: list[Draft] = []
        self._wake = asyncio.Event()
        self._round_done: asyncio.Future[None] | None = None
        self._recent: deque[tuple[float, list[Batch]]] = deque()
        self._outage = False
        # What one caller is told of an outage must not be news that another has missed.
        self._turn = asyncio.Lock()
        self.on_stored: StoredCallback = lambda drafts: None
        self.on_lost: Callable[[Draft], None] = lambda draft: None
        # Brings in what has come from the models since it was called last.
        self.collect: Callable[[], None] = lambda: None
        self.rounds = 0
        self.events = 0

    def touch(self, draft: Draft) -> None:
        """`draft` has something to store."""
        if not draft.touched:
            draft.touched = True
            if not self._dirty:
                self._wake.set()
            self._dirty.append(draft)

    def nudge(self) -> None:
        """Something may have come: the next round shall not be left out."""
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Answers with something that no round has taken yet."""
        return len(self._dirty)

    async def settle(self, draft: Draft) -> None:
        """Until all that was added to `draft` is stored, or the draft is lost."""
        while not draft.settled and not draft.lost:
            self.touch(draft)
            if self._round_done is None or self._round_done.done():
                self._round_done = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._round_done)

    async def run(self) -> None:
        """The loop; runs for as long as the process makes answers."""
        due = self._clock.monotonic()
        while True:
            await self._wake.wait()
            now = self._clock.monotonic()
            # A round that began a little late makes the next one no later.
            due = (due if now - due < self._round_seconds else now) + self._round_seconds
            self.collect()
            await self.round()
            # Even a late round yields once, or a busy database would starve everybody else.
            await self._sleep_until(due - _LEAD)
            if self._clock.monotonic() < due:
                # Most of what the round will store is read before its time, so it begins with what is fresh.
                self.collect()
                await self._sleep_until(due)

    async def _sleep_until(self, moment: float) -> None:
        await asyncio.sleep(max(moment - self._clock.monotonic(), 0))

    async def round(self) -> None:
        """Store what is pending now, publish it, wake its readers."""
        self._wake.clear()
        dirty, self._dirty = self._dirty, []
        taken: list[tuple[Draft, Batch]] = []
        for draft in dirty:
            draft.touched = False
            batch = draft.take()
            # What is lost stays lost, also when the store would take it again: something is missing before it.
            if batch is not None and not draft.lost:
                taken.append((draft, batch))
        if taken:
            await self._append(taken)
        self.rounds += 1
        try:
            self._publish(taken)
        finally:
            # A fault of one reader must not hang everybody who waits for an end.
            if self._round_done is not None and not self._round_done.done():
                self._round_done.set_result(None)

    def _publish(self, taken: list[tuple[Draft, Batch]]) -> None:
        stored = []
        for draft, batch in taken:
            draft.unstored -= len(batch.payloads)
            if draft.lost:
                continue
            try:
                draft.tail.extend(batch.first, batch.payloads)
            except Exception:
                logger.exception("events of generation %s are stored and could not be shown", draft.generation_id)
            else:
                stored.append(draft)
        if taken:
            self.on_stored(stored)

    async def _append(self, taken: list[tuple[Draft, Batch]]) -> None:
        """Until the events are stored or their drafts are known to be lost; outages are waited for."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._turn:
                    batches = [batch for draft, batch in taken if not draft.lost]
                    count = await self._try_append(batches, taken)
                break
            except DatabaseUnavailable:
                if not self._outage:
                    logger.warning("the database is away; %d events wait in memory", _count(batches))
                self._outage = True
            except Exception:
                # What waits here exists nowhere else: a fault of ours must not lose it.
                logger.exception("a round of %d events could not be stored; it is tried again", _count(batches))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        now = self._clock.monotonic()
        self.events += count
        self._recent.append((now, batches))
        while self._recent and now - self._recent[0][0] > _REPLAY_SECONDS:
            self._recent.popleft()

    async def _try_append(self, batches: list[Batch], taken: list[tuple[Draft, Batch]]) -> int:
        """How many events they were."""
        if self._outage:
            await self._store_recent_again()
        count = _count(batches)
        stored = await self._store.append(self._node_id(), batches)
        if stored < count:
            # They were there already, or refused; the node may not have been registered at that moment. Whose drafts
            # may be written before and after one more try, their events are stored by it at the latest.
            drafts = {draft.generation_id: draft for draft, _ in taken}
            await self._mark_lost(drafts)
            await self._store.append(self._node_id(), batches)
            await self._mark_lost(drafts)
        return count

    async def append_again(self, batch: Batch) -> None:
        """Store events that were published before; those that are still there are passed over.

        Raises DatabaseUnavailable, which concerns the other answers too: the next round stores its last ones again.
        """
        async with self._turn:
            try:
                await self._store.append(self._node_id(), [batch])
            except DatabaseUnavailable:
                self._outage = True
                raise

    async def _store_recent_again(self) -> None:
        for _, batches in tuple(self._recent):
            await self._store.append(self._node_id(), batches)
        # They are as young as can be again: a second crash may forget them as the first one did.
        now = self._clock.monotonic()
        self._recent = deque((now, batches) for _, batches in self._recent)
        self._outage = False
        logger.info("the database is back; events are stored again")

    async def _mark_lost(self, drafts: dict[UUID, Draft]) -> None:
        epochs = {generation_id: draft.epoch for generation_id, draft in drafts.items()}
        for generation_id in await self._store.stale(self._node_id(), epochs):
            draft = drafts[generation_id]
            draft.lost = True
            self.on_lost(draft)


def _count(batches: list[Batch]) -> int:
    return sum([len(batch.payloads) for batch in batches])
