"""The log's store as a port: PostgreSQL in the product, a model of it in the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import msgspec

from llmchatbot.models.generations import Status, Usage


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Events `first`, `first + 1`, … of one answer on their way into the store."""

    generation_id: UUID
    epoch: int
    first: int
    payloads: list[str]


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """All that the terminal transaction writes."""

    generation_id: UUID
    epoch: int
    seq: int
    status: Status
    message_id: UUID
    payload: str
    content: str
    reasoning: str
    usage: Usage
    finish_reason: str | None
    error_code: str | None
    model: str
    upstream: str
    cost: float | None
    feed: dict[str, Any]


class Finish(StrEnum):
    """What became of a terminal transaction."""

    DONE = "done"
    # The epoch has moved on, or the generation was deleted: somebody else's now.
    LOST = "lost"
    # Events are missing (a killed database server): nothing was written; store them again and repeat.
    GAP = "gap"


class Store(Protocol):
    """Raises DatabaseUnavailable when the outcome is unknown; every call may be repeated then."""

    async def append(self, node_id: UUID, batches: Sequence[Batch]) -> int:
        """Store events that are not stored yet, in one statement; how many were new.

        Those of a fenced node or of an epoch that has moved on are left out (I2).
        """
        ...

    async def stale(self, node_id: UUID, epochs: dict[UUID, int]) -> set[UUID]:
        """Which of these generations this node may not write any more: fenced, taken over, ended or deleted."""
        ...

    async def finish(self, ending: Ending) -> Finish:
        """The terminal transaction, synchronous; repeating it is harmless."""
        ...

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        """Stored events from `first` on, in order."""
        ...
