"""A finished answer that is not in memory any more, as one reader pulls it from the database."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.tails import Reader

# A whole log is megabytes, and a reader that takes nothing would hold all of them.
_PAGE = 256


class Replay:
    """Events `first..last`, a page at a time: the next one is read when the reader has taken this one."""

    def __init__(self, store: Store, generation_id: UUID, first: int, last: int, *, replaced: bool = False) -> None:
        """`last` is the number of the terminal event. `replaced`: its reader is asked to come again."""
        self.stream_id = str(generation_id)
        self.replaced = replaced
        self._store = store
        self._generation_id = generation_id
        self._first = first
        self._end = last
        self._events: list[str] = []

    @property
    def last(self) -> int:
        return self._first + len(self._events) - 1

    @property
    def ended(self) -> bool:
        return self.last >= self._end

    def since(self, seq: int, limit: int) -> Sequence[str]:
        del self._events[: seq - self._first]
        self._first = seq
        return self._events[:limit]

    async def load(self) -> None:
        """The next page. Raises DatabaseUnavailable."""
        if self.ended:
            return
        first = self.last + 1
        events = await self._store.read(self._generation_id, first, _PAGE)
        contiguous = [payload for offset, (seq, payload) in enumerate(events) if seq == first + offset]
        self._events += contiguous
        # Dropped meanwhile: whoever asks anew gets the whole text.
        self.replaced = not contiguous

    async def wait(self, reader: Reader | None = None) -> None:
        try:
            await self.load()
        except DatabaseUnavailable:
            self.replaced = True

    def wake(self) -> None:
        """Nobody waits for more than a page."""
