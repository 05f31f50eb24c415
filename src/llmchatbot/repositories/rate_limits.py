"""All SQL on `rate_counters`: one row per key and part of a period, counted until its `window_end`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from llmchatbot.models.rate_limits import Tally
from llmchatbot.repositories.executor import Executor, count_of


class Demand(msgspec.Struct, frozen=True):
    """One more of `key`, counting until `window_end`, unless `limit` are counted."""

    key: str
    limit: int
    window_end: datetime


async def lock(executor: Executor, keys: Sequence[str]) -> None:
    """One at a time for each key, over all processes, to the transaction's end; in an order that cannot deadlock."""
    await executor.execute(
        "SELECT pg_advisory_xact_lock(number) FROM (SELECT DISTINCT hashtextextended('rate_counters:' || key, 0) "
        "AS number FROM unnest($1::text[]) AS key ORDER BY number) AS numbers",
        list(keys),
    )


async def hit(executor: Executor, demands: Sequence[Demand], now: datetime) -> list[Tally]:
    """Count all of them, or none when one is used up; how it stood before, in the order of `demands`.

    Needs `lock` before, or two at once would both be the last. Work does not depend on what is found.
    """
    records = await executor.fetch(
        "WITH used AS (SELECT w.place, w.key, w.quota, w.window_end, coalesce(sum(c.count), 0)::int AS n, "
        "min(c.window_end) AS first_end "
        "FROM unnest($1::text[], $2::int[], $3::timestamptz[]) WITH ORDINALITY AS w (key, quota, window_end, place) "
        "LEFT JOIN rate_counters c ON c.key = w.key AND c.window_end > $4 AND c.count > 0 "
        "GROUP BY w.place, w.key, w.quota, w.window_end), "
        "hit AS (INSERT INTO rate_counters AS c (key, window_end, count) SELECT key, window_end, 1 FROM used "
        "WHERE NOT EXISTS (SELECT FROM used WHERE n >= quota) "
        "ON CONFLICT (key, window_end) DO UPDATE SET count = c.count + 1) "
        "SELECT n, n < quota AS allowed, coalesce(first_end, window_end) AS first_end FROM used ORDER BY place",
        [demand.key for demand in demands],
        [demand.limit for demand in demands],
        [demand.window_end for demand in demands],
        now,
    )
    return [
        Tally(
            allowed=record["allowed"],
            used=record["n"],
            retry_after=(record["first_end"] - now).total_seconds(),
        )
        for record in records
    ]


async def take_back(executor: Executor, keys: Sequence[str], now: datetime) -> None:
    """Uncount the latest one of each."""
    await executor.execute(
        "UPDATE rate_counters c SET count = c.count - 1 FROM (SELECT key, max(window_end) AS latest FROM rate_counters "
        "WHERE key = ANY ($1::text[]) AND window_end > $2 AND count > 0 GROUP BY key) AS l "
        "WHERE c.key = l.key AND c.window_end = l.latest AND c.count > 0",
        list(keys),
        now,
    )


async def delete_expired(executor: Executor, now: datetime, limit: int) -> int:
    """How many."""
    tag = await executor.execute(
        "DELETE FROM rate_counters WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM rate_counters WHERE window_end <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
        now,
        limit,
    )
    return count_of(tag)
