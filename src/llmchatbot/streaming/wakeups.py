"""Wake-ups between processes: hints that may be lost or doubled, and never carry truth.

Whoever waits for one also polls slowly, so that a lost wake-up only delays (protocol §5).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import uuid4

Callback = Callable[[str], None]

SESSION_REVOKED = "session_revoked"  # payload: id of the device session
USER_EVENT = "user_event"  # payload: id of the user
STOP = "stop"  # payload: id of the generation
ENDED = "ended"  # payload: id of the generation
WATCH = "watch"  # payload: "<generation> <node that wants to hear of its events>"
STORED = "stored"  # payload: "<node> <generation> <generation> …", for that node's followers


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
            callback(payload)


class Relay(Protocol):
    """What carries hints to other processes."""

    async def send(self, message: str) -> bool:
        """False when it could not be sent. Never raises."""
        ...


class SharedWakeUps(Subscriptions):
    """Here at once, elsewhere over the first relay that works, and only while there is an elsewhere.

    A process that has just started is not known for a second; what it misses, its polls find.
    """

    def __init__(self, relays: Sequence[Relay]) -> None:
        super().__init__()
        self._relays = relays
        self._origin = uuid4().hex
        # Whether other processes live; kept up to date by the node's lease loop.
        self.others = True

    async def publish(self, topic: str, payload: str) -> None:
        self.deliver(topic, payload)
        if self.others:
            message = f"{topic}|{self._origin}|{payload}"
            for relay in self._relays:
                if await relay.send(message):
                    return

    def receive(self, message: str) -> None:
        """What a relay brings. Our own hints were delivered when they were published."""
        topic, _, rest = message.partition("|")
        origin, _, payload = rest.partition("|")
        if origin != self._origin:
            self.deliver(topic, payload)


class LocalWakeUps(Subscriptions):
    """Within one process: tests, and the half that needs no network."""

    async def publish(self, topic: str, payload: str) -> None:
        self.deliver(topic, payload)
