"""Messages as sending and prompting need them: one of a chat, and the way from the root to a leaf."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from llmchatbot.errors import NotFound
from llmchatbot.repositories.executor import Executor

# More messages than any context window holds.
LONGEST_BRANCH = 2000
# A branch is a few ranges of sequence numbers (see messages_read), each read from its end and no longer than asked for.
BRANCH = """
WITH RECURSIVE runs AS (
    SELECT run_start, sequence_number AS run_end, 1 AS number FROM messages WHERE id = {leaf} AND chat_id = {chat}
    UNION ALL
    SELECT parent.run_start, parent.sequence_number, runs.number + 1
    FROM runs
    JOIN messages first ON first.chat_id = {chat} AND first.sequence_number = runs.run_start
    JOIN messages parent ON parent.id = first.parent_id AND parent.chat_id = {chat}
    WHERE runs.number < {limit}
)
SELECT part.id, part.role, part.content
FROM runs CROSS JOIN LATERAL (
    SELECT id, role, content, sequence_number FROM messages
    WHERE chat_id = {chat} AND sequence_number BETWEEN runs.run_start AND runs.run_end
    ORDER BY sequence_number DESC LIMIT {limit}
) AS part
ORDER BY part.sequence_number DESC LIMIT {limit}
"""
_BRANCH = BRANCH.format(chat="$1", leaf="$2", limit="$3")


class BranchMessage(msgspec.Struct, frozen=True):
    """One message on the way from the root to a leaf. By position: made straight from rows."""

    id: UUID
    role: str
    content: str


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """A message that another answer is wanted to."""

    id: UUID
    parent_id: UUID | None
    role: str
    content: str
    status: str
    model: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A person's message as it is stored."""

    id: UUID
    content: str
    sequence_number: int
    created_at: datetime


async def get_question(executor: Executor, user_id: UUID, chat_id: UUID, message_id: UUID) -> Question:
    """Raises NotFound, also for a message that is no question."""
    record = await executor.fetchrow(
        "SELECT id, content, sequence_number, created_at FROM messages "
        "WHERE id = $1 AND chat_id = $2 AND user_id = $3 AND role = 'user'",
        message_id,
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return Question(**dict(record))


async def get_original(executor: Executor, user_id: UUID, chat_id: UUID, message_id: UUID) -> Original:
    """Raises NotFound."""
    record = await executor.fetchrow(
        "SELECT id, parent_id, role, content, status, model FROM messages "
        "WHERE id = $1 AND chat_id = $2 AND user_id = $3",
        message_id,
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return Original(**dict(record))


async def branch(executor: Executor, chat_id: UUID, leaf_id: UUID, limit: int) -> list[BranchMessage]:
    """The newest `limit` messages on the way from the root to `leaf_id`, oldest first."""
    records = await executor.fetch(_BRANCH, chat_id, leaf_id, limit)
    return [BranchMessage(*record) for record in reversed(records)]
