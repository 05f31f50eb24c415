"""Wake-ups between processes: hints that may be lost or doubled, and never carry truth.

Whoever waits for one also polls slowly, so that a lost wake-up only delays (protocol §5).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import uuid4

logger = logging.getLogger(__name__)

Callback = Callable[[str], None]

SESSION_REVOKED = "session_revoked"  # payload: id of the device session
USER_EVENT = "user_event"  # payload: id of the user
STOP = "stop"  # payload: id of the generation
ENDED = "ended"  # payload: id of the generation
WATCH = "watch"  # payload: "<generation> <node that wants to hear of its events>"
HELLO = "hello"  # no payload: a process has started
STORED = "stored"  # payload: "<node> <generation> <generation> …", for that node's followers

_HEARD_SECONDS = 5.0


class WakeUps(Protocol):
    """Every process hears every publication, its own included."""

    async def publish(self, topic: str, payload: str) -> None:
        """Never raises: a hint that cannot be sent is a hint that was lost."""
        ...

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call `callback(payload)` on the event loop for each hint; the result ends the subscription."""
        ...


class Subscriptions:
    """The bookkeeping that all implementations share."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = defaultdict(list)

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        self._callbacks[topic].append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks[topic]:
                self._callbacks[topic].remove(callback)

        return unsubscribe

    def deliver(self, topic: str, payload: str) -> None:
        for callback in tuple(self._callbacks.get(topic, ())):
            try:
                callback(payload)
            except ValueError:
                # A hint is a hint: one that cannot be read must not end the connection that brought it.
                logger.warning("a wake-up of kind %s could not be read", topic)


class Relay(Protocol):
    """What carries hints to other processes."""

    listening: asyncio.Event

    async def send(self, message: str) -> bool:
        """False when it could not be sent. Never raises."""
        ...


class SharedWakeUps(Subscriptions):
    """Here at once, elsewhere over the first relay that works, and only while there is an elsewhere.

    Alone, a process sends nothing: a hint costs a transaction of the database. One that starts announces itself, so the
    others know of it before it serves anybody.
    """

    def __init__(self, relays: Sequence[Relay]) -> None:
        super().__init__()
        self._relays = relays
        self._origin = uuid4().hex
        self._others = True
        self._heard_at = -math.inf

    def note_others(self, live: bool, now: float) -> None:
        """What the table of nodes says; `now` as `loop.time()`.

        Whoever was heard just now may not be in it yet, and before this process listens it could not hear anybody.
        """
        deaf = not any(relay.listening.is_set() for relay in self._relays)
        self._others = live or deaf or now - self._heard_at < _HEARD_SECONDS

    async def announce(self) -> None:
        """Call it once this process listens and is registered."""
        await self._send(HELLO, "")

    async def publish(self, topic: str, payload: str) -> None:
        self.deliver(topic, payload)
        if self._others:
            await self._send(topic, payload)

    async def _send(self, topic: str, payload: str) -> None:
        message = f"{topic}|{self._origin}|{payload}"
        for relay in self._relays:
            if await relay.send(message):
                return

    def receive(self, message: str) -> None:
        """What a relay brings. Our own hints were delivered when they were published."""
        topic, _, rest = message.partition("|")
        origin, _, payload = rest.partition("|")
        if origin != self._origin:
            self._others = True
            self._heard_at = asyncio.get_running_loop().time()
            self.deliver(topic, payload)


class LocalWakeUps(Subscriptions):
    """Within one process: tests, and the half that needs no network."""

    async def publish(self, topic: str, payload: str) -> None:
        self.deliver(topic, payload)
