"""Keys of requests that must not happen twice (protocol §2)."""

from __future__ import annotations

from uuid import UUID

import msgspec

from llmchatbot.repositories.executor import Executor


class KnownKey(msgspec.Struct, frozen=True):
    fingerprint: bytes
    generation_id: UUID


async def find(executor: Executor, user_id: UUID, chat_id: UUID, key: str) -> KnownKey | None:
    record = await executor.fetchrow(
        "SELECT fingerprint, generation_id FROM idempotency_keys "
        "WHERE user_id = $1 AND chat_id = $2 AND key = $3 AND expires_at > now()",
        user_id,
        chat_id,
        key,
    )
    return KnownKey(record["fingerprint"], record["generation_id"]) if record is not None else None


async def find_derived(executor: Executor, user_id: UUID, chat_id: UUID, key: str, grace: float) -> KnownKey | None:
    """A key that the server derived: valid while its answer is made, and `grace` seconds longer if its end was never
    written to a reader."""
    record = await executor.fetchrow(
        "SELECT k.fingerprint, k.generation_id FROM idempotency_keys k JOIN generations g ON g.id = k.generation_id "
        "WHERE k.user_id = $1 AND k.chat_id = $2 AND k.key = $3 AND (g.status IN ('queued', 'running') "
        "OR (g.delivered_at IS NULL AND g.finished_at > now() - make_interval(secs => $4)))",
        user_id,
        chat_id,
        key,
        grace,
    )
    return KnownKey(record["fingerprint"], record["generation_id"]) if record is not None else None


async def remember(
    executor: Executor, user_id: UUID, chat_id: UUID, key: str, known: KnownKey, lifetime: float
) -> None:
    """The row of an expired key is taken over."""
    await executor.execute(
        "INSERT INTO idempotency_keys (user_id, chat_id, key, fingerprint, generation_id, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6)) "
        "ON CONFLICT (user_id, chat_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, "
        "generation_id = excluded.generation_id, expires_at = excluded.expires_at",
        user_id,
        chat_id,
        key,
        known.fingerprint,
        known.generation_id,
        lifetime,
    )


async def forget_expired(executor: Executor) -> None:
    await executor.execute("DELETE FROM idempotency_keys WHERE expires_at < now()")
