"""Searching a person's titles and messages. How the index is made, and why so, says docs/search.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from llmchatbot.models.search import SearchKey
from llmchatbot.repositories.executor import Executor

# How much of a text is searched for the first hit, as much as the index knows of it.
_INDEXED = 50_000
_BEFORE, _WINDOW = 60, 240


class Found(NamedTuple):
    """A row that fits, with the part of its text that holds the first hit."""

    kind: Literal["chat", "message"]
    chat_id: UUID
    title: str
    is_archived: bool
    message_id: UUID | None
    role: Literal["user", "assistant", "system"] | None
    sequence_number: int | None
    created_at: datetime
    excerpt: str
    starts_inside: bool
    ends_inside: bool


# The index gives the rows of one owner alone; `user_id` is asked all the same, because it decides. IS TRUE keeps the
# planner from reading all of a person's chats instead and making the vector of each, as it does without statistics.
_SEARCH = f"""
WITH hits AS (
    (SELECT 'message' AS kind, m.id, m.chat_id, m.created_at FROM messages m
     WHERE (m.user_id = $1) IS TRUE AND search_vector(m.user_id, m.content) @@ search_query($1, $2) {{after_m}}
     ORDER BY m.created_at DESC, m.id DESC LIMIT $3)
    UNION ALL
    (SELECT 'chat', c.id, c.id, c.created_at FROM chats c
     WHERE (c.user_id = $1) IS TRUE AND search_vector(c.user_id, c.title) @@ search_query($1, $2) {{after_c}}
     ORDER BY c.created_at DESC, c.id DESC LIMIT $3)
    ORDER BY created_at DESC, id DESC LIMIT $3
)
SELECT hits.kind, hits.chat_id, c.title, c.archived_at IS NOT NULL, m.id, m.role, m.sequence_number, hits.created_at,
       substr(shown.text, shown.start, {_WINDOW}), shown.start > 1, length(shown.text) >= shown.start + {_WINDOW}
FROM hits
JOIN chats c ON c.id = hits.chat_id AND c.user_id = $1
LEFT JOIN messages m ON hits.kind = 'message' AND m.id = hits.id
CROSS JOIN LATERAL (
    SELECT text, lower(text) AS low FROM left(coalesce(m.content, c.title), {_INDEXED}) AS text OFFSET 0
) AS whole
CROSS JOIN LATERAL (
    -- A needle behind a space begins a word; any other place is second best.
    SELECT whole.text, greatest(1, coalesce(
        min(nullif(strpos(whole.low, ' ' || needle), 0)), min(nullif(strpos(whole.low, needle), 0)), 1) - {_BEFORE}
    ) AS start
    FROM unnest($4::text[]) AS needle
) AS shown
ORDER BY hits.created_at DESC, hits.id DESC
"""  # constants
_FIRST_PAGE = _SEARCH.format(after_m="", after_c="")
_NEXT_PAGE = _SEARCH.format(
    after_m="AND (m.created_at, m.id) < ($5, $6)", after_c="AND (c.created_at, c.id) < ($5, $6)"
)


async def search(
    executor: Executor, user_id: UUID, question: str, needles: Sequence[str], *, after: SearchKey | None, limit: int
) -> list[Found]:
    """The newest first. `needles` are the question's words in lower case: where the excerpt is cut out."""
    statement = _FIRST_PAGE if after is None else _NEXT_PAGE
    records = await executor.fetch(statement, user_id, question, limit, needles, *(after or ()))
    return [Found(*record) for record in records]
