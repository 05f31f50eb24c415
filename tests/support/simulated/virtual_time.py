"""An event loop whose clock stands still while anything can run, and jumps to the next timer when nothing can."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableSet
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class NothingToWaitForError(Exception):
    """Every task waits for another: no timer is set."""


class VirtualLoop(asyncio.BaseEventLoop):
    """No sockets, no threads: what runs in it depends on nothing but the code and its random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        # What the base class asks of a loop: a selector that never finds anything and passes the time.
        self._selector = self
        # Of a virtual second; sums of floats must not let a timer be a hair too early for ever.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._seconds

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingToWaitForError
        self._seconds += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


class InOrder(MutableSet[T]):
    """A set that is walked in the order in which its members came. Others walk by address, another one in each run."""

    def __init__(self) -> None:
        self._members: dict[T, None] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, value: T) -> None:
        self._members[value] = None

    def discard(self, value: T) -> None:
        self._members.pop(value, None)


class LoopClock:
    """The product's clock port on the running loop."""

    def now(self) -> datetime:
        return _BEGIN + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
