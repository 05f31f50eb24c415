"""Tickets that open one read stream for a few minutes; only their hashes are stored."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from llmchatbot.models.principals import Principal
from llmchatbot.repositories.executor import Executor, count_of


async def create(
    executor: Executor, hash_: bytes, generation_id: UUID, user_id: UUID, session_id: UUID, expires_at: datetime
) -> None:
    await executor.execute(
        "INSERT INTO stream_tickets (hash, generation_id, user_id, session_id, expires_at) VALUES ($1, $2, $3, $4, $5)",
        hash_,
        generation_id,
        user_id,
        session_id,
        expires_at,
    )


async def find(executor: Executor, hash_: bytes, generation_id: UUID, now: datetime) -> Principal | None:
    """None when it is unknown, expired, for another generation, or its device or account has ended."""
    record = await executor.fetchrow(
        "SELECT t.user_id, t.session_id FROM stream_tickets t "
        "JOIN device_sessions d ON d.id = t.session_id AND d.revoked_at IS NULL "
        "AND d.idle_expires_at > $3 AND d.absolute_expires_at > $3 "
        "JOIN users u ON u.id = t.user_id AND u.is_active AND (u.expires_at IS NULL OR u.expires_at > $3) "
        "WHERE t.hash = $1 AND t.generation_id = $2 AND t.expires_at > $3",
        hash_,
        generation_id,
        now,
    )
    return Principal(user_id=record["user_id"], session_id=record["session_id"]) if record is not None else None


async def forget_expired(executor: Executor, now: datetime, limit: int) -> int:
    """How many."""
    tag = await executor.execute(
        "DELETE FROM stream_tickets WHERE hash = ANY (ARRAY("
        "SELECT hash FROM stream_tickets WHERE expires_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
        now,
        limit,
    )
    return count_of(tag)
