"""Messages as sending and prompting need them: one of a chat, and the way from the root to a leaf."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from llmchatbot.errors import NotFound
from llmchatbot.repositories.executor import Executor


class BranchMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message on the way from the root to a leaf."""

    id: UUID
    parent_id: UUID | None
    role: str
    content: str
    status: str
    model: str
    generation_id: UUID | None


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


async def get_in_chat(executor: Executor, user_id: UUID, chat_id: UUID, message_id: UUID) -> BranchMessage:
    """Raises NotFound."""
    record = await executor.fetchrow(
        "SELECT id, parent_id, role, content, status, model, generation_id FROM messages "
        "WHERE id = $1 AND chat_id = $2 AND user_id = $3",
        message_id,
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return BranchMessage(**dict(record))


async def branch(executor: Executor, chat_id: UUID, leaf_id: UUID, limit: int) -> list[BranchMessage]:
    """The newest `limit` messages on the way from the root to `leaf_id`, oldest first."""
    records = await executor.fetch(
        """
        WITH RECURSIVE walk AS (
            SELECT id, parent_id, role, content, status, model, generation_id, 1 AS depth
            FROM messages WHERE id = $2 AND chat_id = $1
            UNION ALL
            SELECT m.id, m.parent_id, m.role, m.content, m.status, m.model, m.generation_id, walk.depth + 1
            FROM messages m JOIN walk ON m.id = walk.parent_id
            WHERE walk.depth < $3 AND m.chat_id = $1
        )
        SELECT id, parent_id, role, content, status, model, generation_id FROM walk ORDER BY depth DESC
        """,
        chat_id,
        leaf_id,
        limit,
    )
    return [BranchMessage(**dict(record)) for record in records]
