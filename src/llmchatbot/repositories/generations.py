"""Generations: made with their messages, owned by one node at a time, ended once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record

from llmchatbot.errors import NotFound
from llmchatbot.models.generations import Generation, Status, Usage
from llmchatbot.repositories.executor import Executor

_COLUMNS = (
    "id, user_id, chat_id, message_id, user_message_id, status, epoch, owner_node, model, parameters, prefix, "
    "derived_key, last_seq, finish_reason, error_code, stop_requested_at, created_at, finished_at"
)
_COLUMNS_OF_G = ", ".join(f"g.{column}" for column in _COLUMNS.split(", "))
ACTIVE = "('queued', 'running')"


def _generation(record: Record) -> Generation:
    values = dict(record)
    values["status"] = Status(values["status"])
    return Generation(**values)


async def find_owned(executor: Executor, user_id: UUID, generation_id: UUID) -> Generation | None:
    record = await executor.fetchrow(
        f"SELECT {_COLUMNS} FROM generations WHERE id = $1 AND user_id = $2", generation_id, user_id
    )
    return _generation(record) if record is not None else None


async def get_owned(executor: Executor, user_id: UUID, generation_id: UUID) -> Generation:
    """Raises NotFound, for what does not exist and for what is somebody else's alike."""
    generation = await find_owned(executor, user_id, generation_id)
    if generation is None:
        raise NotFound
    return generation


async def begin(executor: Executor, generation_id: UUID, epoch: int, prompt: dict[str, Any]) -> bool:
    """What was taken over is `running`, its new prompt on record. False when the epoch moved on or it was ended."""
    tag = await executor.execute(
        f"UPDATE generations SET status = 'running', started_at = coalesce(started_at, now()), prompt = $3 "
        f"WHERE id = $1 AND epoch = $2 AND status IN {ACTIVE}",
        generation_id,
        epoch,
        prompt,
    )
    return tag == "UPDATE 1"


async def request_stop(executor: Executor, user_id: UUID, generation_id: UUID) -> None:
    """Lasting, so that a stop survives a lost wake-up and the death of the node."""
    await executor.execute(
        f"UPDATE generations SET stop_requested_at = coalesce(stop_requested_at, now()) "
        f"WHERE id = $1 AND user_id = $2 AND status IN {ACTIVE}",
        generation_id,
        user_id,
    )


async def stop_requests(executor: Executor, node_id: UUID) -> list[UUID]:
    records = await executor.fetch(
        f"SELECT id FROM generations WHERE owner_node = $1 AND status IN {ACTIVE} AND stop_requested_at IS NOT NULL",
        node_id,
    )
    return [record["id"] for record in records]


async def claim_orphans(
    executor: Executor, node_id: UUID, held: list[UUID], *, own_after: float, limit: int
) -> list[Generation]:
    """Take over what belongs to fenced or vanished nodes, or to nobody; the epoch rises, so its old owner is fenced.

    Also the node's own that it does not hold: their commit was not known to have happened, or their job died. Only
    after `own_after` seconds: a send that has just committed is about to begin its job. A fenced node gets nothing.
    """
    records = await executor.fetch(
        f"""
        UPDATE generations g SET epoch = g.epoch + 1, owner_node = $1
        FROM (
            SELECT o.id FROM generations o LEFT JOIN nodes n ON n.id = o.owner_node
            WHERE o.status IN {ACTIVE}
            AND (n.id IS NULL OR n.fenced_at IS NOT NULL OR (
                o.owner_node = $1 AND o.id <> ALL ($3) AND o.created_at < now() - make_interval(secs => $4)))
            AND EXISTS (SELECT FROM nodes WHERE id = $1 AND fenced_at IS NULL)
            ORDER BY o.id LIMIT $2 FOR UPDATE OF o SKIP LOCKED
        ) orphan
        WHERE g.id = orphan.id
        RETURNING {_COLUMNS_OF_G}
        """,
        node_id,
        limit,
        held,
        own_after,
    )
    return [_generation(record) for record in records]


async def mark_delivered(executor: Executor, generation_id: UUID) -> None:
    """The terminal event was written to a reader: a repeated GET is a new message from now on (protocol §2.3)."""
    await executor.execute(
        "UPDATE generations SET delivered_at = now() WHERE id = $1 AND delivered_at IS NULL", generation_id
    )


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What the receipt of a stop and a reset after compaction need."""

    status: Status
    last_seq: int
    content: str
    usage: Usage
    model: str


async def find_ended(executor: Executor, user_id: UUID, generation_id: UUID) -> Ended | None:
    """None while it is not terminal, or when it is not the user's."""
    record = await executor.fetchrow(
        "SELECT g.status, g.last_seq, g.model, m.content, u.input_tokens, u.output_tokens, u.estimated "
        "FROM generations g JOIN messages m ON m.id = g.message_id LEFT JOIN usage u ON u.generation_id = g.id "
        f"WHERE g.id = $1 AND g.user_id = $2 AND g.status NOT IN {ACTIVE}",
        generation_id,
        user_id,
    )
    if record is None:
        return None
    usage = Usage(
        input_tokens=record["input_tokens"] or 0,
        output_tokens=record["output_tokens"] or 0,
        estimated=record["estimated"] is not False,
    )
    return Ended(
        status=Status(record["status"]),
        last_seq=record["last_seq"],
        content=record["content"],
        usage=usage,
        model=record["model"],
    )


async def find_prompt(executor: Executor, user_id: UUID, generation_id: UUID) -> dict[str, Any] | None:
    """The recorded prompt; None of an answer that an older release began. Raises NotFound when it is not the user's."""
    record = await executor.fetchrow(
        "SELECT prompt FROM generations WHERE id = $1 AND user_id = $2", generation_id, user_id
    )
    if record is None:
        raise NotFound
    prompt: dict[str, Any] | None = record["prompt"]
    return prompt
