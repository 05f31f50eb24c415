"""What a person's answers have cost; the rows outlive the chats they belong to, and without a name their account."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

import msgspec

from llmchatbot.models.usage import UsageRow, UsageSum
from llmchatbot.repositories.executor import Executor


async def sums(
    executor: Executor, user_id: UUID, first: date, last: date, *, by_day: bool, by_model: bool
) -> list[UsageSum]:
    """Of the days `first` to `last`, both counted; newest day first."""
    records = await executor.fetch(
        "SELECT CASE WHEN $4 THEN day END AS of_day, CASE WHEN $5 THEN model END AS of_model, count(*), "
        "sum(input_tokens), sum(output_tokens), bool_or(estimated), sum(cost)::float8 "
        "FROM usage WHERE user_id = $1 AND day BETWEEN $2 AND $3 "
        "GROUP BY of_day, of_model ORDER BY of_day DESC, of_model",
        user_id,
        first,
        last,
        by_day,
        by_model,
    )
    return [UsageSum(*record) for record in records]


class Unended(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in the making, as far as it has come. `asked` is empty before its model was called.

    `prefix` is what a person asked to go on from: it was accounted when it was made.
    """

    generation_id: UUID
    model: str
    prefix: str
    asked: list[str]
    events: list[str]


async def unended(executor: Executor, user_id: UUID, generation_ids: Sequence[UUID]) -> list[Unended]:
    """Those of these that have not ended, with the texts of the prompt on record and the log so far."""
    records = await executor.fetch(
        "SELECT g.id AS generation_id, g.model, g.prefix, "
        "ARRAY(SELECT m.content FROM messages m WHERE m.chat_id = g.chat_id "
        "AND m.id = ANY (ARRAY(SELECT jsonb_array_elements_text(g.prompt -> 'message_ids')::uuid)) "
        "UNION ALL SELECT g.prompt ->> 'system_prompt' WHERE g.prompt ->> 'system_prompt' <> '') AS asked, "
        "ARRAY(SELECT e.payload FROM generation_events e WHERE e.generation_id = g.id ORDER BY e.seq) AS events "
        "FROM generations g WHERE g.id = ANY ($2::uuid[]) AND g.user_id = $1 AND g.status IN ('queued', 'running')",
        user_id,
        generation_ids,
    )
    return [Unended(**dict(record)) for record in records]


async def insert(executor: Executor, user_id: UUID, rows: Sequence[UsageRow]) -> None:
    """Of today, as estimates."""
    await executor.execute(
        "INSERT INTO usage (generation_id, user_id, model, day, input_tokens, output_tokens, estimated, cost) "
        "SELECT r.id, $1, r.model, (now() AT TIME ZONE 'UTC')::date, r.input, r.output, true, r.cost "
        "FROM unnest($2::uuid[], $3::text[], $4::int[], $5::int[], $6::numeric[]) r (id, model, input, output, cost)",
        user_id,
        [row.generation_id for row in rows],
        [row.model for row in rows],
        [row.input_tokens for row in rows],
        [row.output_tokens for row in rows],
        [row.cost for row in rows],
    )
