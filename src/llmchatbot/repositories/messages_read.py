"""Reading messages: a branch, or the whole tree, page by page.

A branch is the way from its leaf up to the root. `run_start` makes it a few ranges of sequence numbers: all messages
from `run_start` to a message are its ancestors, so one hop per fork leads to the root, not one per message.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from llmchatbot.models.messages import Message
from llmchatbot.repositories.executor import Executor

# In the order of the fields of Message.
_COLUMNS = (
    "m.id, m.role, m.content, m.tokens, m.status <> 'completed', m.created_at, m.sequence_number, m.parent_id, "
    "m.status, m.model, m.generation_id, m.reasoning"
)
# Numbers first, out of the index alone and from each run only as many as a page holds; then the rows of the page.
_BRANCH = """
WITH RECURSIVE runs AS (
    SELECT leaf.run_start, leaf.sequence_number AS run_end
    FROM chats c JOIN messages leaf ON leaf.id = c.leaf_id AND leaf.chat_id = c.id
    WHERE c.id = $1 AND c.user_id = $2
    UNION ALL
    SELECT parent.run_start, parent.sequence_number
    FROM runs
    JOIN messages first ON first.chat_id = $1 AND first.sequence_number = runs.run_start
    JOIN messages parent ON parent.id = first.parent_id AND parent.chat_id = $1
), page AS (
    SELECT number
    FROM runs CROSS JOIN LATERAL (
        SELECT sequence_number AS number FROM messages
        WHERE chat_id = $1 AND sequence_number BETWEEN runs.run_start AND runs.run_end AND sequence_number {beyond} $3
        ORDER BY sequence_number {direction} LIMIT $4
    ) AS part
    ORDER BY number {direction} LIMIT $4
)
SELECT {columns} FROM page JOIN messages m ON m.chat_id = $1 AND m.sequence_number = page.number
ORDER BY page.number {direction}
"""
_TREE = """
SELECT {columns} FROM messages m
WHERE m.chat_id = $1 AND m.user_id = $2 AND m.sequence_number {beyond} $3
ORDER BY m.sequence_number {direction} LIMIT $4
"""
_DIRECTIONS = {False: {"direction": "ASC", "beyond": ">"}, True: {"direction": "DESC", "beyond": "<"}}
_STATEMENTS = {
    (whole_tree, newest_first): (_TREE if whole_tree else _BRANCH).format(columns=_COLUMNS, **direction)
    for whole_tree in (False, True)
    for newest_first, direction in _DIRECTIONS.items()
}
_BEFORE_THE_FIRST, _BEHIND_THE_LAST = 0, 2**31 - 1


async def list_page(
    executor: Executor,
    user_id: UUID,
    chat_id: UUID,
    *,
    whole_tree: bool,
    newest_first: bool,
    after: int | None,
    limit: int | None,
) -> list[Message]:
    """From behind the sequence number `after` on; empty for a chat without messages and for somebody else's alike."""
    if after is None:
        after = _BEHIND_THE_LAST if newest_first else _BEFORE_THE_FIRST
    records = await executor.fetch(_STATEMENTS[whole_tree, newest_first], chat_id, user_id, after, limit)
    return [Message(*record) for record in records]


async def texts_so_far(executor: Executor, generation_ids: Sequence[UUID]) -> dict[UUID, list[str]]:
    """Stored events of answers in the making, in order."""
    records = await executor.fetch(
        "SELECT generation_id, payload FROM generation_events WHERE generation_id = ANY($1::uuid[]) "
        "ORDER BY generation_id, seq",
        generation_ids,
    )
    payloads: dict[UUID, list[str]] = {}
    for generation_id, payload in records:
        payloads.setdefault(generation_id, []).append(payload)
    return payloads


async def links_from(
    executor: Executor, user_id: UUID, chat_id: UUID, message_id: UUID
) -> list[tuple[UUID, UUID | None]]:
    """(id, parent) of a message and of all later ones of its chat, oldest first; empty when it is not there."""
    records = await executor.fetch(
        "SELECT m.id, m.parent_id FROM messages origin JOIN messages m ON m.chat_id = origin.chat_id "
        "AND m.sequence_number >= origin.sequence_number "
        "WHERE origin.id = $1 AND origin.chat_id = $2 AND origin.user_id = $3 ORDER BY m.sequence_number",
        message_id,
        chat_id,
        user_id,
    )
    return [(record["id"], record["parent_id"]) for record in records]
