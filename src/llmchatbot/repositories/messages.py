"""Writing messages: one row each, numbered by the chat's row (I8), never by MAX+1 and never by time."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.errors import NotFound
from llmchatbot.repositories.executor import Executor


class ChatHead(msgspec.Struct, frozen=True, kw_only=True):
    """What sending needs of a chat; its row is locked."""

    id: UUID
    archived: bool
    model_used: str
    parameters: dict[str, Any]
    leaf_id: UUID | None
    title_source: str
    last_sequence: int


class BranchMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message on the way from the root to a leaf."""

    id: UUID
    parent_id: UUID | None
    role: str
    content: str
    status: str
    model: str
    generation_id: UUID | None


async def lock_chat(executor: Executor, user_id: UUID, chat_id: UUID) -> ChatHead:
    """Raises NotFound. Two sends in one chat take turns from here to their commit."""
    record = await executor.fetchrow(
        "SELECT id, archived_at IS NOT NULL AS archived, model_used, parameters, leaf_id, title_source, last_sequence "
        "FROM chats WHERE id = $1 AND user_id = $2 FOR UPDATE",
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return ChatHead(**dict(record))


async def lock_user(executor: Executor, user_id: UUID) -> None:
    """Two sends of one person take turns, or a limit on all their chats could be overrun."""
    await executor.execute("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE", user_id)


async def take_numbers(executor: Executor, chat_id: UUID, count: int, leaf_id: UUID) -> int:
    """The first of `count` fresh sequence numbers; the chat's current leaf moves to `leaf_id`."""
    last: int = await executor.fetchval(
        "UPDATE chats SET last_sequence = last_sequence + $2, message_count = message_count + $2, leaf_id = $3, "
        "updated_at = now() WHERE id = $1 RETURNING last_sequence",
        chat_id,
        count,
        leaf_id,
    )
    return last - count + 1


async def insert(
    executor: Executor,
    *,
    message_id: UUID,
    chat_id: UUID,
    user_id: UUID,
    parent_id: UUID | None,
    sequence_number: int,
    role: str,
    status: str,
    content: str,
    model: str = "",
    generation_id: UUID | None = None,
) -> None:
    await executor.execute(
        "INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role, status, content, model, "
        "generation_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        message_id,
        chat_id,
        user_id,
        parent_id,
        sequence_number,
        role,
        status,
        content,
        model,
        generation_id,
    )


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


async def set_title_if_default(
    executor: Executor, chat_id: UUID, title: str, source: str, over: tuple[str, ...]
) -> bool:
    """A title that a person chose is never overwritten."""
    tag = await executor.execute(
        "UPDATE chats SET title = $2, title_source = $3, version = version + 1 "
        "WHERE id = $1 AND title_source = ANY($4)",
        chat_id,
        title,
        source,
        list(over),
    )
    return tag == "UPDATE 1"
