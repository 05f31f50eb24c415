"""The feed of one person (protocol §4): dense numbers, written in the transaction of the change that they tell of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmchatbot.errors import NotFound
from llmchatbot.repositories.executor import Executor, count_of

# One statement: the row of the user is locked from here to the commit, so the numbers are dense and in commit order.
_APPEND = """
WITH numbered AS (
    UPDATE users SET last_event_seq = last_event_seq + cardinality($2::text[]) WHERE id = $1
    RETURNING id, last_event_seq - cardinality($2::text[]) AS before
)
INSERT INTO user_events (user_id, seq, payload)
SELECT numbered.id, numbered.before + entry.n, entry.payload
FROM numbered, unnest($2::text[]) WITH ORDINALITY AS entry (payload, n)
"""


async def append(executor: Executor, user_id: UUID, *payloads: Mapping[str, Any]) -> None:
    """Call it last in a transaction: it makes the person's other changes wait for the commit."""
    if payloads:
        await executor.execute(_APPEND, user_id, [_ascii(payload) for payload in payloads])


async def bounds(executor: Executor, user_id: UUID) -> tuple[int, int]:
    """Numbers of the first and the last event that can be read; a feed that is empty gets its first event."""
    record = await executor.fetchrow(
        "SELECT u.last_event_seq AS last, (SELECT min(seq) FROM user_events WHERE user_id = u.id) AS first "
        "FROM users u WHERE u.id = $1",
        user_id,
    )
    if record is None:
        raise NotFound
    if record["last"] < 0:
        await append(executor, user_id, {"type": "start"})
        return await bounds(executor, user_id)
    last: int = record["last"]
    return (record["first"] if record["first"] is not None else last + 1), last


_READ = """
SELECT payload FROM (
    SELECT seq, payload, sum(length(payload)) OVER (ORDER BY seq) - length(payload) AS before
    FROM user_events WHERE user_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
) next
WHERE before < $4 ORDER BY seq
"""


async def read(executor: Executor, user_id: UUID, after: int, *, limit: int, enough: int) -> list[str]:
    """Events behind number `after`, in order: at most `limit`, and none behind the first `enough` characters."""
    records = await executor.fetch(_READ, user_id, after, limit, enough)
    return [record["payload"] for record in records]


async def forget_old(executor: Executor, seconds: float, limit: int) -> int:
    """From the beginning of each feed on, and how many: a transaction that began earlier may have the later number, and
    no reader must find a hole."""
    tag = await executor.execute(
        "DELETE FROM user_events WHERE ctid = ANY (ARRAY("
        "SELECT e.ctid FROM user_events e JOIN (SELECT user_id, max(seq) AS seq FROM user_events "
        "WHERE created_at < now() - make_interval(secs => $1) GROUP BY user_id) old "
        "ON e.user_id = old.user_id AND e.seq <= old.seq "
        "ORDER BY e.user_id, e.seq LIMIT $2 FOR UPDATE OF e SKIP LOCKED))",
        seconds,
        limit,
    )
    return count_of(tag)


def _ascii(payload: Mapping[str, Any]) -> str:
    """As it is stored and sent: one line of ASCII (protocol §3)."""
    return json.dumps(payload, ensure_ascii=True, separators=(",", ":"))
