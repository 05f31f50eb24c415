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


async def renew(executor: Executor, node_id: UUID, lease_seconds: float) -> float | None:
    """How many seconds the lease still had, below zero when it had run out.

    None when somebody has fenced the node: its answers are not its own any more.
    """
    left: float | None = await executor.fetchval(
        "UPDATE nodes n SET lease_until = now() + make_interval(secs => $2) "
        "FROM (SELECT id, lease_until FROM nodes WHERE id = $1 AND fenced_at IS NULL FOR NO KEY UPDATE) before "
        "WHERE n.id = before.id AND n.fenced_at IS NULL "
        "RETURNING extract(epoch FROM before.lease_until - now())::float8",
        node_id,
        lease_seconds,
    )
    return left


async def fence_expired(executor: Executor, node_id: UUID, least_left: float) -> bool:
    """Fence every other node whose lease has run out.

    Fences nobody and says False when the caller's own lease has less than `least_left` seconds left: then the
    database's clock has jumped, and the leases of the living ran out with it. In one statement, so that no jump can
    come between the look at the own lease and the others'.
    """
    in_step: bool = await executor.fetchval(
        "WITH own AS MATERIALIZED ("
        "SELECT 1 FROM nodes WHERE id = $1 AND lease_until >= now() + make_interval(secs => $2)"
        "), fenced AS ("
        "UPDATE nodes SET fenced_at = now() "
        "WHERE lease_until < now() AND fenced_at IS NULL AND id <> $1 AND EXISTS (SELECT FROM own)"
        ") SELECT EXISTS (SELECT FROM own)",
        node_id,
        least_left,
    )
    return in_step


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
