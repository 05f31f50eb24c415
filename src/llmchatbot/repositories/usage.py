"""Sums of what a person's answers have cost; the rows outlive the chats they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from llmchatbot.models.usage import UsageSum
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


async def account_unfinished(executor: Executor, user_id: UUID, chat_ids: Sequence[UUID]) -> None:
    """Answers in the making that are about to be deleted with their chats: what was asked and said so far, four
    characters a token. Otherwise whoever deletes in time would talk for nothing.

    The chats must be locked, so that no answer ends meanwhile. One whose model was not asked yet has cost nothing.
    """
    await executor.execute(
        """
        INSERT INTO usage (generation_id, user_id, model, day, input_tokens, output_tokens, estimated)
        SELECT g.id, g.user_id, g.model, (now() AT TIME ZONE 'UTC')::date, (asked.characters + 3) / 4,
               greatest(said.characters - length(g.prefix) + 3, 0) / 4, true
        FROM generations g, LATERAL (
            SELECT coalesce(sum(length(content)), 0) AS characters FROM messages
            WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(g.prompt -> 'message_ids'))
        ) asked, LATERAL (
            SELECT coalesce(sum(length(payload::json ->> 'content')), 0) AS characters FROM generation_events
            WHERE generation_id = g.id AND payload LIKE '{"type":"token",%'
        ) said
        WHERE g.user_id = $1 AND g.chat_id = ANY($2::uuid[]) AND g.status IN ('queued', 'running')
        AND g.prompt IS NOT NULL
        ON CONFLICT DO NOTHING
        """,
        user_id,
        chat_ids,
    )
