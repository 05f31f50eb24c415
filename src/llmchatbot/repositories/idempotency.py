"""Keys of requests that must not happen twice (protocol §2)."""

from __future__ import annotations

from llmchatbot.repositories.executor import Executor


async def forget_expired(executor: Executor) -> None:
    await executor.execute("DELETE FROM idempotency_keys WHERE expires_at < now()")
