"""The answer log in PostgreSQL: `streaming.store.Store` as SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from llmchatbot.database.dedicated import DedicatedConnection
from llmchatbot.database.pool import retrying
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.repositories.executor import Executor
from llmchatbot.streaming.payloads import encode
from llmchatbot.streaming.store import Batch, Ending, Finish

# Whoever takes a node's work over sets `fenced_at` first. FOR SHARE makes that wait for the round under way, and makes
# every later round find no row: a process that slept through its lease can store nothing any more (I2). The owner
# stands beside it because such a process registers again, under an id that nobody has fenced.
#
# OFFSET 0 keeps the planner from reading the two tables by the owner's index and comparing each answer with each event:
# without statistics it takes both for tiny, and 400 answers cost 22 ms a round instead of 1.2.
_APPEND = """
WITH fence AS MATERIALIZED (
    SELECT 1 FROM nodes WHERE id = $1 AND fenced_at IS NULL FOR SHARE
)
INSERT INTO generation_events (generation_id, seq, payload)
SELECT e.generation_id, e.seq, e.payload
FROM unnest($2::uuid[], $3::int[], $4::int[], $5::text[]) AS e (generation_id, seq, epoch, payload)
CROSS JOIN LATERAL (
    SELECT epoch, owner_node, status FROM generations WHERE id = e.generation_id OFFSET 0
) AS g
WHERE g.epoch = e.epoch AND g.owner_node = $1 AND g.status IN ('queued', 'running') AND EXISTS (SELECT FROM fence)
"""
# Looking for conflicts costs a third of the statement, so it is only done where there can be one: on a repetition.
_APPEND_AGAIN = f"{_APPEND} ON CONFLICT DO NOTHING"

_STALE = """
SELECT e.generation_id
FROM unnest($2::uuid[], $3::int[]) AS e (generation_id, epoch)
LEFT JOIN generations g ON g.id = e.generation_id AND g.epoch = e.epoch AND g.owner_node = $1
     AND g.status IN ('queued', 'running')
WHERE g.id IS NULL OR NOT EXISTS (SELECT FROM nodes WHERE id = $1 AND fenced_at IS NULL)
"""

# One statement, hence one round trip and one commit. The row of the generation is the lock and the fence. `gap` refuses
# to end an answer whose log is not whole, which only a killed database server can cause: the writer stores it again.
# Rows are locked in the order that everybody keeps, chat before generation before user, or deadlocks would come.
_FINISH = """
WITH locked AS MATERIALIZED (
    SELECT c.id FROM chats c JOIN generations g ON g.chat_id = c.id WHERE g.id = $1 FOR NO KEY UPDATE OF c
), gap AS (
    SELECT $3 <> (SELECT count(*) FROM generation_events WHERE generation_id = $1) AS found
), done AS (
    UPDATE generations SET status = $4, last_seq = $3, finish_reason = $5, error_code = $6, finished_at = now(),
           upstream = $7, model = $8
    WHERE id = $1 AND epoch = $2 AND status IN ('queued', 'running') AND NOT (SELECT found FROM gap)
          AND EXISTS (SELECT FROM locked)
    RETURNING id, user_id, chat_id, message_id
), event AS (
    INSERT INTO generation_events (generation_id, seq, payload) SELECT id, $3, $9 FROM done
), message AS (
    UPDATE messages m SET content = $10, reasoning = $11, status = $4, tokens = $12, model = $8
    FROM done WHERE m.id = done.message_id
), accounted AS (
    INSERT INTO usage (generation_id, user_id, model, day, input_tokens, output_tokens, estimated, cost)
    SELECT id, user_id, $8, (now() AT TIME ZONE 'UTC')::date, $13, $12, $14, $15 FROM done
), chat AS (
    UPDATE chats SET updated_at = now() FROM done WHERE chats.id = done.chat_id RETURNING chats.user_id
), numbered AS (
    UPDATE users SET last_event_seq = last_event_seq + 1 FROM chat WHERE users.id = chat.user_id
    RETURNING users.id, last_event_seq
), feed AS (
    INSERT INTO user_events (user_id, seq, payload) SELECT id, last_event_seq, $16 FROM numbered
)
SELECT CASE WHEN EXISTS (SELECT FROM done) THEN 'done'
            WHEN EXISTS (SELECT FROM generations
                         WHERE id = $1 AND epoch = $2 AND status = $4 AND last_seq = $3) THEN 'done'
            -- Not by a look at the generation alone: one that was deleted meanwhile is still seen here.
            WHEN (SELECT found FROM gap) AND EXISTS (SELECT FROM generations
                         WHERE id = $1 AND epoch = $2 AND status IN ('queued', 'running')) THEN 'gap'
            ELSE 'lost' END
"""


class PostgresAnswerLog:
    """`rounds` should commit without waiting for the disk (`synchronous_commit=off`); `endings` must wait."""

    def __init__(self, *, rounds: Executor | DedicatedConnection, endings: Executor) -> None:
        self._rounds = rounds
        self._endings = endings
        # Number of the connection of the append before; 0 when there is none to go on with.
        self._number = 0

    async def append(self, node_id: UUID, batches: Sequence[Batch]) -> int:
        """Also raises DatabaseUnavailable, once, when its connection is another than that of the append before.

        Then a crash of the server may lie between them, and the last acknowledged events be forgotten.
        """
        columns = _columns(batches)
        try:
            tag = await self._execute(_APPEND, node_id, *columns)
        except asyncpg.UniqueViolationError:
            tag = await self._execute(_APPEND_AGAIN, node_id, *columns)
        return int(tag.rsplit(" ", 1)[1])

    async def _execute(self, query: str, *args: Any) -> str:
        if not isinstance(self._rounds, DedicatedConnection):
            return await self._rounds.execute(query, *args)
        try:
            tag, self._number = await self._rounds.execute_on(self._number, query, *args)
        except DatabaseUnavailable:
            self._number = 0
            raise
        return tag

    async def stale(self, node_id: UUID, epochs: dict[UUID, int]) -> set[UUID]:
        records = await self._rounds.fetch(_STALE, node_id, list(epochs), list(epochs.values()))
        return {record["generation_id"] for record in records}

    async def finish(self, ending: Ending) -> Finish:
        async def finish() -> str:
            outcome: str = await self._endings.fetchval(
                _FINISH,
                ending.generation_id,
                ending.epoch,
                ending.seq,
                ending.status.value,
                ending.finish_reason,
                ending.error_code,
                ending.upstream,
                ending.model,
                ending.payload,
                ending.content,
                ending.reasoning,
                ending.usage.output_tokens,
                ending.usage.input_tokens,
                ending.usage.estimated,
                ending.cost,
                encode(ending.feed),
            )
            return outcome

        return Finish(await retrying(finish))

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        return await read(self._endings, generation_id, first, limit)


def _columns(batches: Sequence[Batch]) -> tuple[list[UUID], list[int], list[int], list[str]]:
    """Ids, numbers, epochs and payloads, a row per event."""
    ids: list[UUID] = []
    numbers: list[int] = []
    epochs: list[int] = []
    payloads: list[str] = []
    for batch in batches:
        count = len(batch.payloads)
        if count == 1:
            # Nearly every one; the way below makes three lists of it.
            ids.append(batch.generation_id)
            numbers.append(batch.first)
            epochs.append(batch.epoch)
            payloads.append(batch.payloads[0])
            continue
        ids += [batch.generation_id] * count
        numbers += range(batch.first, batch.first + count)
        epochs += [batch.epoch] * count
        payloads += batch.payloads
    return ids, numbers, epochs, payloads


async def read(executor: Executor, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
    """Stored events from `first` on, in order."""
    records = await executor.fetch(
        "SELECT seq, payload FROM generation_events WHERE generation_id = $1 AND seq >= $2 ORDER BY seq LIMIT $3",
        generation_id,
        first,
        limit,
    )
    return [(record["seq"], record["payload"]) for record in records]


async def cut_off(executor: Executor, generation_id: UUID, epoch: int, first: int) -> None:
    """Drop the events from `first` on: they lie behind a gap, and others will be written under their numbers."""
    await executor.execute(
        "DELETE FROM generation_events WHERE generation_id = $1 AND seq >= $3 "
        "AND EXISTS (SELECT FROM generations WHERE id = $1 AND epoch = $2)",
        generation_id,
        epoch,
        first,
    )
