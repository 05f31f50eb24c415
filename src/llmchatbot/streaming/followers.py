"""Answers that another process makes: their tails are fed from the database, woken by hints, with a slow poll behind.

The follower says "I watch this" every few seconds; the maker's process then names the answer in its hints, once per
round. An answer nobody watches from elsewhere costs no hint at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from uuid import UUID

from llmchatbot.clock import Clock
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.streaming import wakeups
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.tails import Tail, Tails
from llmchatbot.streaming.wakeups import WakeUps
from llmchatbot.tasks import Supervisor

logger = logging.getLogger(__name__)

_READ_LIMIT = 1000
_WATCH_SECONDS = 5.0
_UNWATCHED_SECONDS = 30.0
# Longer than any model may be silent. Readers then ask anew, and learn of an answer that was deleted.
_SILENT_SECONDS = 120.0


class Followers:
    """One follower per answer and process, however many readers there are."""

    def __init__(
        self,
        *,
        store: Store,
        tails: Tails,
        wakeups: WakeUps,
        clock: Clock,
        node_id: Callable[[], UUID],
        supervisor: Supervisor,
        poll_seconds: float,
    ) -> None:
        self._store = store
        self._tails = tails
        self._wakeups = wakeups
        self._clock = clock
        self._node_id = node_id
        self._supervisor = supervisor
        self._poll_seconds = poll_seconds
        self._wakes: dict[UUID, asyncio.Event] = {}
        # The tail that each of them feeds.
        self._fed: dict[UUID, Tail] = {}
        # Followed here and said to have ended; what their log does not tell, they were deleted with.
        self._ended: set[UUID] = set()

    def start(self) -> None:
        self._wakeups.subscribe(wakeups.STORED, self._on_stored)
        self._wakeups.subscribe(wakeups.ENDED, self._on_ended)

    def follow(self, generation_id: UUID) -> Tail:
        """The tail of an answer that is made elsewhere; it fills from its first event on."""
        tail = self._tails.open(generation_id)
        fed = generation_id in self._wakes and self._fed[generation_id] is tail
        if not fed and not tail.ended:
            # Whoever fed a tail that somebody has dropped meanwhile finds another wake-up in the place of its own.
            wake = self._wakes[generation_id] = asyncio.Event()
            self._fed[generation_id] = tail
            self._supervisor.spawn(self._run(tail, wake), name=f"follow {generation_id}")
        return tail

    def release(self, generation_id: UUID) -> None:
        """This process makes the answer from now on: its writer feeds the tail."""
        wake = self._wakes.pop(generation_id, None)
        self._fed.pop(generation_id, None)
        self._ended.discard(generation_id)
        if wake is not None:
            wake.set()

    def _on_stored(self, payload: str) -> None:
        node, *generations = payload.split(" ")
        if node == str(self._node_id()):
            for generation_id in generations:
                self._wake(generation_id)

    def _on_ended(self, payload: str) -> None:
        if UUID(payload) in self._wakes:
            self._ended.add(UUID(payload))
        self._wake(payload)

    def _wake(self, generation_id: str) -> None:
        wake = self._wakes.get(UUID(generation_id))
        if wake is not None:
            wake.set()

    async def _run(self, tail: Tail, wake: asyncio.Event) -> None:
        generation_id = tail.generation_id
        announced, last = -1e9, tail.last
        heard = watched = self._clock.monotonic()
        try:
            while not (tail.ended or tail.replaced) and self._wakes.get(generation_id) is wake:
                wake.clear()
                now = self._clock.monotonic()
                if now - announced > _WATCH_SECONDS:
                    announced = now
                    await self._wakeups.publish(wakeups.WATCH, f"{generation_id} {self._node_id()}")
                said_to_have_ended = generation_id in self._ended
                if tail.watched:
                    watched = now
                if await self._pull(tail):
                    continue
                if tail.last > last:
                    last, heard = tail.last, now
                if said_to_have_ended or now - heard > _SILENT_SECONDS or now - watched > _UNWATCHED_SECONDS:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), self._poll_seconds)
        finally:
            # After a fault of ours too: a tail that nobody feeds must not keep its readers waiting.
            self._give_up(tail, wake)
            if self._wakes.get(generation_id) is wake:
                del self._wakes[generation_id]
                del self._fed[generation_id]
                self._ended.discard(generation_id)

    def _give_up(self, tail: Tail, wake: asyncio.Event) -> None:
        """Nobody reads it, or no end will come: its readers are sent to ask anew."""
        generation_id = tail.generation_id
        ours = self._wakes.get(generation_id) is wake and self._tails.find(generation_id) is tail
        if ours and not tail.ended:
            self._tails.drop(generation_id)

    async def _pull(self, tail: Tail) -> bool:
        """Whether there may be more at once."""
        try:
            events = await self._store.read(tail.generation_id, tail.last + 1, _READ_LIMIT)
        except DatabaseUnavailable:
            return False
        expected = tail.last + 1
        contiguous = [payload for offset, (seq, payload) in enumerate(events) if seq == expected + offset]
        if contiguous:
            tail.extend(expected, contiguous)
        return len(contiguous) == _READ_LIMIT


class Watchers:
    """The maker's side: which other processes want to hear of which answers, and telling them once per round."""

    def __init__(self, *, wakeups: WakeUps, clock: Clock, node_id: Callable[[], UUID]) -> None:
        self._wakeups = wakeups
        self._clock = clock
        self._node_id = node_id
        self._interest: dict[UUID, dict[str, float]] = {}
        self._news: dict[str, set[str]] = {}
        self._has_news = asyncio.Event()

    def start(self) -> None:
        self._wakeups.subscribe(wakeups.WATCH, self._on_watch)

    def _on_watch(self, payload: str) -> None:
        generation_id, _, node = payload.partition(" ")
        if node != str(self._node_id()):
            # Three announcements may be lost before a watcher falls back to its poll.
            self._interest.setdefault(UUID(generation_id), {})[node] = self._clock.monotonic() + 4 * _WATCH_SECONDS

    def stored(self, drafts: list[Draft]) -> None:
        """Called by the writer after each round."""
        if not self._interest:
            return
        now = self._clock.monotonic()
        for draft in drafts:
            for node, until in self._interest.get(draft.generation_id, {}).items():
                if until > now:
                    self._news.setdefault(node, set()).add(str(draft.generation_id))
        if self._news:
            self._has_news.set()

    def forget(self, generation_id: UUID) -> None:
        self._interest.pop(generation_id, None)

    def sweep(self) -> None:
        """Interest in answers that were never ours ends by itself."""
        now = self._clock.monotonic()
        for generation_id, nodes in tuple(self._interest.items()):
            if all(until < now for until in nodes.values()):
                del self._interest[generation_id]

    async def run(self) -> None:
        """Publishes outside of the round, so that a slow NOTIFY never delays an event."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            news, self._news = self._news, {}
            for node, generations in news.items():
                ordered = sorted(generations)
                # 37 bytes an id: 200 of them stay below NOTIFY's limit of 8,000.
                for first in range(0, len(ordered), 200):
                    await self._wakeups.publish(wakeups.STORED, " ".join([node, *ordered[first : first + 200]]))
