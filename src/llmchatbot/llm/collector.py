"""Reading many connections at once, when somebody asks for what has come, instead of each at its own wake-up.

Tokens wait for the next round of the writer in any case. To wake for each of them costs a turn of the event loop, with
caches that hold something else, and gains nothing: one look at all connections shortly before the round is cheaper by a
tenth and no later (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 0.025
"""Seconds until it is read without being asked: whoever asks may wait for a database, or think that it is over."""
_PIECE = 16 * 1024
_PIECES = 16
"""At most so many at once from one connection; the others wait."""


class Collected(Protocol):
    """A connection as the collector sees it."""

    def data_received(self, data: bytes) -> None: ...

    def ebb(self) -> None:
        """Nothing can be read here any more: the transport shall find out whether it is the end or an error."""
        ...

    def close(self) -> None: ...


class Collector:
    """Does nothing until somebody says with `use` that he will ask; then connections may be added."""

    def __init__(self) -> None:
        self._connections: dict[int, Collected] = {}
        self._on_arrival: Callable[[], None] | None = None
        self._poll: select.epoll | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed = False

    def use(self, on_arrival: Callable[[], None]) -> None:
        """`on_arrival` is called once when something comes after a `collect` that found nothing.

        After one that found something, it is looked at again without a word. Linux only; else a no-op.
        """
        if hasattr(select, "epoll"):
            self._on_arrival = on_arrival

    def add(self, descriptor: int, connection: Collected) -> bool:
        """Read it from now on; False when nobody would ask. Its transport must not read meanwhile."""
        if self._on_arrival is None:
            return False
        if self._poll is None:
            self._poll = select.epoll()
        self._poll.register(descriptor, select.EPOLLIN)
        self._connections[descriptor] = connection
        self._arm()
        return True

    def remove(self, descriptor: int, connection: Collected) -> None:
        """Its transport may read again. A descriptor that was closed may be another connection's by now."""
        if self._connections.get(descriptor) is not connection or self._poll is None:
            return
        del self._connections[descriptor]
        try:
            self._poll.unregister(descriptor)
        except OSError:
            logger.debug("descriptor %d was closed before it was let go of", descriptor)
        if not self._connections:
            self._disarm()

    def collect(self) -> None:
        """Give every connection what has come for it."""
        if self._poll is None or not self._connections:
            return
        self._disarm()
        ready = self._poll.poll(0, len(self._connections))
        for descriptor, _ in ready:
            connection = self._connections.get(descriptor)
            if connection is not None:
                self._read(descriptor, connection)
        if ready:
            # Where something came, more will: to be told of it costs the kernel a look at every connection, twice.
            self._look_later()
        else:
            self._arm()

    def close(self) -> None:
        """Idempotent."""
        self._disarm()
        self._on_arrival = None
        self._connections.clear()
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def _read(self, descriptor: int, connection: Collected) -> None:
        """Runs once per token."""
        for _ in range(_PIECES):
            try:
                piece = os.read(descriptor, _PIECE)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                connection.ebb()
                return
            try:
                connection.data_received(piece)
            except Exception:
                # As an event loop does it: this connection is at its end, the others are not.
                logger.exception("a piece of an answer could not be taken")
                connection.close()
                return
            if len(piece) < _PIECE or self._connections.get(descriptor) is not connection:
                return

    def _look_later(self) -> None:
        if self._timer is None and self._connections:
            self._timer = asyncio.get_running_loop().call_later(_LONGEST_WAIT, self.collect)

    def _arm(self) -> None:
        if not self._armed and self._timer is None and self._connections and self._poll is not None:
            self._armed = True
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._arrived)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._armed and self._poll is not None:
            self._armed = False
            asyncio.get_running_loop().remove_reader(self._poll.fileno())

    def _arrived(self) -> None:
        self._disarm()
        self._look_later()
        if self._on_arrival is not None:
            self._on_arrival()
