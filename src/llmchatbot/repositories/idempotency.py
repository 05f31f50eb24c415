"""Keys of requests that must not happen twice (protocol §2)."""

from __future__ import annotations

from llmchatbot.repositories.executor import Executor, count_of


async def forget_expired(executor: Executor, limit: int) -> int:
    """How many; one that is renewed at this moment is left alone."""
    tag = await executor.execute(
        "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM idempotency_keys WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))",
        limit,
    )
    return count_of(tag)
