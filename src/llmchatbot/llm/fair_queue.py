"""A bound on concurrent calls whose waiting line is fair between users: each user's oldest call in turn.

One person with ten open tabs waits behind himself, not in front of everybody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from llmchatbot.errors import ModelOverloaded


class Ticket:
    """One call's place: in the line, then on the machine. `leave` gives up either; it never waits and never raises."""

    __slots__ = ("_granted", "_limiter", "_user")

    def __init__(self, limiter: FairLimiter, user: str) -> None:
        self._limiter = limiter
        self._user = user
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def granted(self) -> bool:
        """Whether the call may run."""
        return self._granted.done()

    @property
    def user(self) -> str:
        """Whose call it is."""
        return self._user

    def grant(self) -> None:
        """Let it run; for the limiter only."""
        if not self._granted.done():
            self._granted.set_result(None)

    async def wait(self, timeout: float) -> bool:
        """Wait until it may run, at most `timeout` seconds; whether it may."""
        await asyncio.wait({self._granted}, timeout=timeout)
        return self.granted

    def position(self) -> int:
        """How many calls start before this one, plus one; 0 when it runs."""
        return 0 if self.granted else self._limiter.position(self)

    def leave(self) -> None:
        """Give the place back; the next call in turn gets it at once. Idempotent."""
        self._limiter.leave(self)


class FairLimiter:
    """At most `limit` calls at once, at most `max_waiting` in the line."""

    def __init__(self, limit: int, *, max_waiting: int = 1000) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._running: set[Ticket] = set()
        # The users in turn; the first one's oldest ticket is next.
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._waiting = 0
        self._positions: dict[Ticket, int] | None = None

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Calls in the line."""
        return self._waiting

    def join(self, user: str) -> Ticket:
        """Take a place; the ticket runs at once where there is room. Raises ModelOverloaded when the line is full."""
        ticket = Ticket(self, user)
        if len(self._running) < self._limit and not self._waiting:
            self._running.add(ticket)
            ticket.grant()
            return ticket
        if self._waiting >= self._max_waiting:
            raise ModelOverloaded(
                "Too many people wait for this model already; try again shortly.", extra={"line": "full"}
            )
        self._lines.setdefault(user, deque()).append(ticket)
        self._waiting += 1
        self._positions = None
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """See `Ticket.leave`."""
        if ticket in self._running:
            self._running.discard(ticket)
            self._fill()
            return
        line = self._lines.get(ticket.user)
        if line is not None and ticket in line:
            line.remove(ticket)
            if not line:
                del self._lines[ticket.user]
            self._waiting -= 1
            self._positions = None

    def _fill(self) -> None:
        while self._lines and len(self._running) < self._limit:
            user, line = next(iter(self._lines.items()))
            ticket = line.popleft()
            if line:
                self._lines.move_to_end(user)
            else:
                del self._lines[user]
            self._waiting -= 1
            self._running.add(ticket)
            ticket.grant()
            self._positions = None

    def position(self, ticket: Ticket) -> int:
        """See `Ticket.position`. All positions are counted in one go and kept until the line changes."""
        if self._positions is None:
            self._positions = {}
            lines = [list(line) for line in self._lines.values()]
            depth = 0
            while lines:
                for line in lines:
                    self._positions[line[depth]] = len(self._positions) + 1
                depth += 1
                lines = [line for line in lines if len(line) > depth]
        return self._positions.get(ticket, 0)
