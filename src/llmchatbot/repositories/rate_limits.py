"""All SQL on `rate_counters`: one row per key and part of a period, counted until its `window_end`."""

from __future__ import annotations

from datetime import datetime

from llmchatbot.models.rate_limits import Tally
from llmchatbot.repositories.executor import Executor


async def lock(executor: Executor, key: str) -> None:
    """One at a time for a key, over all processes, to the transaction's end."""
    await executor.execute("SELECT pg_advisory_xact_lock(hashtextextended('rate_counters:' || $1, 0))", key)


async def hit(executor: Executor, key: str, *, limit: int, now: datetime, window_end: datetime) -> Tally:
    """Count one unless `limit` are counted already. Needs `lock` before, or two at once would both be the last."""
    record = await executor.fetchrow(
        "WITH used AS (SELECT coalesce(sum(count), 0)::int AS n, min(window_end) AS first_end "
        "FROM rate_counters WHERE key = $1 AND window_end > $2 AND count > 0), "
        "hit AS (INSERT INTO rate_counters AS c (key, window_end, count) SELECT $1, $3, 1 FROM used WHERE n < $4 "
        "ON CONFLICT (key, window_end) DO UPDATE SET count = c.count + 1 RETURNING 1) "
        "SELECT n, first_end, EXISTS (SELECT FROM hit) AS allowed FROM used",
        key,
        now,
        window_end,
        limit,
    )
    if record is None:
        raise LookupError("an aggregate always has a row")
    first_end: datetime = record["first_end"] or window_end
    return Tally(allowed=record["allowed"], used=record["n"], retry_after=(first_end - now).total_seconds())


async def take_back(executor: Executor, key: str, now: datetime) -> None:
    """Uncount the latest one."""
    await executor.execute(
        "UPDATE rate_counters SET count = count - 1 WHERE key = $1 AND window_end = "
        "(SELECT max(window_end) FROM rate_counters WHERE key = $1 AND window_end > $2 AND count > 0) AND count > 0",
        key,
        now,
    )


async def delete_expired(executor: Executor, now: datetime) -> None:
    await executor.execute("DELETE FROM rate_counters WHERE window_end <= $1", now)
