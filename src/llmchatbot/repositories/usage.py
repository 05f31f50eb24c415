"""Sums of what a person's answers have cost; the rows outlive the chats they belong to."""

from __future__ import annotations

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
