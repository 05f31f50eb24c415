"""Processes that make answers, and their leases. The database's clock decides, so that all nodes agree."""

from __future__ import annotations

from uuid import UUID

from llmchatbot.repositories.executor import Executor, count_of


async def register(executor: Executor, node_id: UUID, name: str, lease_seconds: float) -> None:
    """May be repeated: the answer to a commit can get lost."""
    await executor.execute(
        "INSERT INTO nodes (id, name, lease_until) VALUES ($1, $2, now() + make_interval(secs => $3)) "
        "ON CONFLICT DO NOTHING",
        node_id,
        name,
        lease_seconds,
    )


async def renew(executor: Executor, node_id: UUID, lease_seconds: float) -> bool:
    """False when somebody has fenced the node: its answers are not its own any more."""
    tag = await executor.execute(
        "UPDATE nodes SET lease_until = now() + make_interval(secs => $2) WHERE id = $1 AND fenced_at IS NULL",
        node_id,
        lease_seconds,
    )
    return tag == "UPDATE 1"


async def fence_expired(executor: Executor) -> int:
    """Fence every node whose lease has run out; how many there were."""
    tag = await executor.execute("UPDATE nodes SET fenced_at = now() WHERE lease_until < now() AND fenced_at IS NULL")
    return count_of(tag)


async def fence(executor: Executor, node_id: UUID) -> None:
    """A node gives itself up, or whoever saw its process end does."""
    await executor.execute("UPDATE nodes SET fenced_at = now() WHERE id = $1 AND fenced_at IS NULL", node_id)


async def forget_old(executor: Executor, limit: int) -> int:
    """Drop nodes that were fenced more than a day ago and own nothing; how many."""
    tag = await executor.execute(
        "DELETE FROM nodes WHERE id = ANY (ARRAY(SELECT id FROM nodes n WHERE fenced_at < now() - interval '1 day' "
        "AND NOT EXISTS (SELECT FROM generations WHERE owner_node = n.id AND status IN ('queued', 'running')) "
        "LIMIT $1 FOR UPDATE SKIP LOCKED))",
        limit,
    )
    return count_of(tag)


async def others_live(executor: Executor, node_id: UUID) -> bool:
    """Whether any other node may be listening."""
    live: bool = await executor.fetchval(
        "SELECT EXISTS (SELECT FROM nodes WHERE id <> $1 AND fenced_at IS NULL)", node_id
    )
    return live
