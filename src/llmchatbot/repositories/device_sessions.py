"""All SQL on `device_sessions` and `refresh_tokens`. Rows of a family are locked before its tokens are read."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from llmchatbot.models.device_sessions import DeviceSession, Family, RefreshToken, Standing
from llmchatbot.repositories.executor import Executor, count_of


async def insert(executor: Executor, session: DeviceSession) -> None:
    await executor.execute(
        "INSERT INTO device_sessions (id, user_id, user_agent, address, created_at, last_used_at, idle_expires_at, "
        "absolute_expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        session.id,
        session.user_id,
        session.user_agent,
        session.address,
        session.created_at,
        session.last_used_at,
        session.idle_expires_at,
        session.absolute_expires_at,
    )


async def insert_token(executor: Executor, session_id: UUID, token_hash: bytes, generation: int, now: datetime) -> None:
    await executor.execute(
        "INSERT INTO refresh_tokens (hash, session_id, generation, created_at) VALUES ($1, $2, $3, $4)",
        token_hash,
        session_id,
        generation,
        now,
    )


async def find_standing(executor: Executor, session_id: UUID) -> Standing | None:
    record = await executor.fetchrow(
        "SELECT s.user_id, s.revoked_at IS NULL AND u.is_active AS is_live, "
        "least(s.absolute_expires_at, u.expires_at) AS ends_at "
        "FROM device_sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1",
        session_id,
    )
    return Standing(**record) if record is not None else None


async def find_family(executor: Executor, token_hash: bytes) -> Family | None:
    """The family that a token belongs to, whatever the token's age."""
    record = await executor.fetchrow(
        "SELECT s.id, s.user_id, s.revoked_at IS NULL AND u.is_active AS is_live, s.idle_expires_at, "
        "least(s.absolute_expires_at, u.expires_at) AS ends_at "
        "FROM refresh_tokens t JOIN device_sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id "
        "WHERE t.hash = $1",
        token_hash,
    )
    return Family(**record) if record is not None else None


async def lock_family(executor: Executor, token_hash: bytes) -> Family | None:
    """The same, its row locked to the transaction's end."""
    record = await executor.fetchrow(
        "SELECT s.id, s.user_id, s.revoked_at IS NULL AND u.is_active AS is_live, s.idle_expires_at, "
        "least(s.absolute_expires_at, u.expires_at) AS ends_at "
        "FROM device_sessions s JOIN users u ON u.id = s.user_id "
        "WHERE s.id = (SELECT session_id FROM refresh_tokens WHERE hash = $1) FOR UPDATE OF s",
        token_hash,
    )
    return Family(**record) if record is not None else None


async def get_token(executor: Executor, token_hash: bytes, rotations: int) -> RefreshToken:
    """A statement of its own, after the lock: it sees what the previous holder of the lock has committed.

    `rotations` back from the one that this token would make: the moment that its quota is measured from.
    """
    record = await executor.fetchrow(
        "SELECT t.generation, t.rotated_at, "
        "(SELECT max(generation) FROM refresh_tokens n WHERE n.session_id = t.session_id) AS newest_generation, "
        "(SELECT created_at FROM refresh_tokens n WHERE n.session_id = t.session_id AND n.generation > 0 "
        "AND n.generation = t.generation + 1 - $2) AS quota_began_at "
        "FROM refresh_tokens t WHERE t.hash = $1",
        token_hash,
        rotations,
    )
    if record is None:
        raise LookupError("a token of a locked family cannot vanish")
    return RefreshToken(**record)


async def mark_rotated(executor: Executor, token_hash: bytes, now: datetime) -> None:
    await executor.execute("UPDATE refresh_tokens SET rotated_at = $2 WHERE hash = $1", token_hash, now)


async def touch(executor: Executor, session_id: UUID, *, now: datetime, idle_expires_at: datetime) -> None:
    await executor.execute(
        "UPDATE device_sessions SET last_used_at = $2, idle_expires_at = $3 WHERE id = $1",
        session_id,
        now,
        idle_expires_at,
    )


async def prolong(
    executor: Executor, user_id: UUID, *, idle_expires_at: datetime, absolute_expires_at: datetime
) -> None:
    """New ends for all living devices of an account that has become a lasting one."""
    await executor.execute(
        "UPDATE device_sessions SET idle_expires_at = $2, absolute_expires_at = $3 "
        "WHERE user_id = $1 AND revoked_at IS NULL",
        user_id,
        idle_expires_at,
        absolute_expires_at,
    )


async def list_active(executor: Executor, user_id: UUID, now: datetime, limit: int) -> list[DeviceSession]:
    """The most recently used first."""
    records = await executor.fetch(
        "SELECT id, user_id, user_agent, address, created_at, last_used_at, idle_expires_at, absolute_expires_at "
        "FROM device_sessions WHERE user_id = $1 AND revoked_at IS NULL AND idle_expires_at > $2 "
        "AND absolute_expires_at > $2 ORDER BY last_used_at DESC, id DESC LIMIT $3",
        user_id,
        now,
        limit,
    )
    return [DeviceSession(**record) for record in records]


async def revoke(executor: Executor, user_id: UUID, session_id: UUID, *, reason: str, now: datetime) -> bool:
    """False when this person has no such device, or it was ended before."""
    tag = await executor.execute(
        "UPDATE device_sessions SET revoked_at = $3, revoked_reason = $4 "
        "WHERE user_id = $1 AND id = $2 AND revoked_at IS NULL",
        user_id,
        session_id,
        now,
        reason,
    )
    return tag == "UPDATE 1"


async def revoke_all(
    executor: Executor, user_id: UUID, *, reason: str, now: datetime, keep: UUID | None = None
) -> list[UUID]:
    """The devices that were ended."""
    records = await executor.fetch(
        "UPDATE device_sessions SET revoked_at = $2, revoked_reason = $3 "
        "WHERE user_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $4 RETURNING id",
        user_id,
        now,
        reason,
        keep,
    )
    return [record["id"] for record in records]


async def delete_ended(executor: Executor, before: datetime, limit: int) -> int:
    """Forget devices that ended before that moment; how many. Until then their tokens are recognised as reused."""
    tag = await executor.execute(
        "DELETE FROM device_sessions WHERE id IN (SELECT id FROM device_sessions "
        "WHERE least(revoked_at, idle_expires_at, absolute_expires_at) < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before,
        limit,
    )
    return count_of(tag)


async def ended_among(executor: Executor, session_ids: list[UUID], now: datetime) -> list[UUID]:
    """Which of these may not read any more: revoked, deleted, at either of their ends, or of an account that was
    switched off or has expired."""
    records = await executor.fetch(
        "SELECT asked.id FROM unnest($1::uuid[]) AS asked (id) WHERE NOT EXISTS ("
        "SELECT FROM device_sessions d JOIN users u ON u.id = d.user_id WHERE d.id = asked.id AND d.revoked_at IS NULL "
        "AND d.idle_expires_at > $2 AND d.absolute_expires_at > $2 AND u.is_active "
        "AND (u.expires_at IS NULL OR u.expires_at > $2))",
        session_ids,
        now,
    )
    return [record["id"] for record in records]
