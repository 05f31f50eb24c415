"""All SQL on `users`. Two spellings of one address are one account: the unique index on lower(email) decides."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import asyncpg

from llmchatbot.errors import EmailTaken
from llmchatbot.models.users import LoginCandidate, User
from llmchatbot.repositories.executor import Executor, count_of


async def insert(
    executor: Executor,
    *,
    user_id: UUID,
    email: str,
    username: str,
    password_hash: str | None,
    expires_at: datetime | None,
    now: datetime,
) -> None:
    """Without a password it is a guest. Raises EmailTaken."""
    try:
        await executor.execute(
            "INSERT INTO users (id, email, username, password_hash, is_guest, expires_at, created_at) "
            "VALUES ($1, $2, $3, $4, $4::text IS NULL, $5, $6)",
            user_id,
            email,
            username,
            password_hash,
            expires_at,
            now,
        )
    except asyncpg.UniqueViolationError as error:
        raise _translated(error) from error


async def upgrade(
    executor: Executor, user_id: UUID, *, email: str, username: str, password_hash: str, now: datetime
) -> bool:
    """Make a guest's account a lasting one; False when it is none (any more). Raises EmailTaken."""
    try:
        tag = await executor.execute(
            "UPDATE users SET email = $2, username = $3, password_hash = $4, is_guest = false, expires_at = NULL, "
            "version = version + 1 WHERE id = $1 AND is_guest AND is_active AND expires_at > $5",
            user_id,
            email,
            username,
            password_hash,
            now,
        )
    except asyncpg.UniqueViolationError as error:
        raise _translated(error) from error
    return tag == "UPDATE 1"


def _translated(error: asyncpg.UniqueViolationError) -> Exception:
    return EmailTaken() if error.constraint_name == "users_email_key" else error


async def find(executor: Executor, user_id: UUID) -> User | None:
    record = await executor.fetchrow(
        "SELECT id, email, username, is_active, is_guest, expires_at, version, created_at, last_login_at "
        "FROM users WHERE id = $1",
        user_id,
    )
    return User(**record) if record is not None else None


async def lock(executor: Executor, user_id: UUID) -> None:
    """To the transaction's end. Whoever changes a person's devices does this first: one order, so no deadlock."""
    await executor.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", user_id)


async def find_login_candidate(executor: Executor, email: str, address: str) -> LoginCandidate | None:
    record = await executor.fetchrow(
        "SELECT u.id, u.password_hash, u.is_active, "
        "EXISTS (SELECT FROM device_sessions d WHERE d.user_id = u.id AND d.address = $2) AS address_known "
        "FROM users u WHERE lower(u.email) = lower($1)",
        email,
        address,
    )
    return LoginCandidate(**record) if record is not None else None


async def find_password_hash(executor: Executor, user_id: UUID) -> str | None:
    found: str | None = await executor.fetchval("SELECT password_hash FROM users WHERE id = $1", user_id)
    return found


async def record_login(executor: Executor, user_id: UUID, *, verified_hash: str, new_hash: str, now: datetime) -> bool:
    """False when the account was deactivated or got another password since `verified_hash` was read: the row lock makes
    a log-in with the old password and a change of password come one after the other."""
    tag = await executor.execute(
        "UPDATE users SET last_login_at = $4, password_hash = $3 WHERE id = $1 AND password_hash = $2 AND is_active",
        user_id,
        verified_hash,
        new_hash,
        now,
    )
    return tag == "UPDATE 1"


async def replace_password(executor: Executor, user_id: UUID, *, verified_hash: str, new_hash: str) -> bool:
    """False when the password was changed by somebody else since `verified_hash` was read."""
    tag = await executor.execute(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2", user_id, verified_hash, new_hash
    )
    return tag == "UPDATE 1"


async def rename(executor: Executor, user_id: UUID, username: str, versions: list[int] | None) -> User | None:
    """None when the account is gone or its version is none of `versions`; `versions` None: whatever it is."""
    record = await executor.fetchrow(
        "UPDATE users SET username = $2, version = version + 1 "
        "WHERE id = $1 AND ($3::bigint[] IS NULL OR version = ANY ($3)) "
        "RETURNING id, email, username, is_active, is_guest, expires_at, version, created_at, last_login_at",
        user_id,
        username,
        versions,
    )
    return User(**record) if record is not None else None


async def deactivate(executor: Executor, user_id: UUID) -> bool:
    tag = await executor.execute("UPDATE users SET is_active = false WHERE id = $1", user_id)
    return tag == "UPDATE 1"


# An answer that is still made for a guest ends first, and is accounted for by its end; the guest goes next time.
_EXPIRED_GUEST = (
    "u.is_guest AND u.expires_at <= $1 "
    "AND NOT EXISTS (SELECT FROM generations g WHERE g.user_id = u.id AND g.status IN ('queued', 'running'))"
)


async def delete_chats_of_expired_guests(executor: Executor, now: datetime, limit: int) -> int:
    """How many; before the guests themselves, whose deletion would take all their messages along in one statement."""
    tag = await executor.execute(
        "DELETE FROM chats WHERE id = ANY (ARRAY(SELECT c.id FROM users u JOIN chats c ON c.user_id = u.id "
        f"WHERE {_EXPIRED_GUEST} LIMIT $2 FOR UPDATE OF c SKIP LOCKED))",
        now,
        limit,
    )
    return count_of(tag)


async def delete_expired_guests(executor: Executor, now: datetime, limit: int) -> int:
    """How many were deleted, with all they had; at most `limit`. Two processes never wait for each other."""
    tag = await executor.execute(
        f"DELETE FROM users WHERE id = ANY (ARRAY(SELECT u.id FROM users u WHERE {_EXPIRED_GUEST} "
        "ORDER BY u.expires_at LIMIT $2 FOR UPDATE OF u SKIP LOCKED))",
        now,
        limit,
    )
    return count_of(tag)
