"""Hours of the answer log: made ahead, dropped whole. A UUIDv7 begins with its time, so an hour is a range of ids."""

from __future__ import annotations

import re
from uuid import UUID

from llmchatbot.ids import time_floor
from llmchatbot.repositories.executor import Executor, count_of

HOUR_MILLISECONDS = 3_600_000
_NAME = re.compile(r"generation_events_h(\d+)")


def hour_of(milliseconds: int) -> int:
    return milliseconds // HOUR_MILLISECONDS


async def hours(executor: Executor) -> list[int]:
    """Hours since 1970 that have a partition, oldest first."""
    records = await executor.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'generation_events'::regclass"
    )
    found = (_NAME.fullmatch(record["relname"]) for record in records)
    return sorted(int(match[1]) for match in found if match)


async def create(executor: Executor, hour: int) -> None:
    """Inside a transaction. Its lock holds up every writer behind one slow reader, so it waits a second at the most.

    `hour` is a whole number of ours, so it may stand in a statement that takes no parameters.
    """
    first, beyond = _bounds(hour)
    await executor.execute("SET LOCAL lock_timeout = '1s'")
    await executor.execute(
        f"CREATE TABLE IF NOT EXISTS generation_events_h{hour:d} PARTITION OF generation_events "
        f"FOR VALUES FROM ('{first}') TO ('{beyond}')"
    )


async def drop(executor: Executor, hour: int) -> None:
    """Waits two seconds at the most for readers; raises asyncpg.LockNotAvailableError when they hold it longer."""
    await executor.execute("SET LOCAL lock_timeout = '2s'")
    await executor.execute(f"DROP TABLE IF EXISTS generation_events_h{hour:d}")


async def in_use(executor: Executor, hour: int, retention_seconds: float) -> bool:
    """Whether an answer that began in this hour is still made, or ended less than the retention ago."""
    first, beyond = _bounds(hour)
    used: bool = await executor.fetchval(
        "SELECT EXISTS (SELECT FROM generations WHERE id >= $1 AND id < $2 "
        "AND (finished_at IS NULL OR finished_at > now() - make_interval(secs => $3)))",
        first,
        beyond,
        retention_seconds,
    )
    return used


async def clear_default(executor: Executor, beyond: int, limit: int) -> int:
    """The default partition is a safety net; what fell into it before hour `beyond` is deleted row by row. How many."""
    tag = await executor.execute(
        "DELETE FROM generation_events_default WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM generation_events_default WHERE generation_id < $1 LIMIT $2))",
        time_floor(_start(beyond)),
        limit,
    )
    return count_of(tag)


def _start(hour: int) -> int:
    return hour * HOUR_MILLISECONDS


def _bounds(hour: int) -> tuple[UUID, UUID]:
    return time_floor(_start(hour)), time_floor(_start(hour + 1))
