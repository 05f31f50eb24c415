"""The statements of one send: lock, look, write. Three round trips, because each costs both sides 0.1 ms."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record

from llmchatbot.errors import NotFound
from llmchatbot.models.generations import Generation
from llmchatbot.repositories.executor import Executor
from llmchatbot.streaming.payloads import encode

ACTIVE = "('queued', 'running')"


class ChatHead(msgspec.Struct, frozen=True, kw_only=True):
    """What sending needs of a chat; its row is locked."""

    id: UUID
    archived: bool
    model_used: str
    parameters: dict[str, Any]
    leaf_id: UUID | None
    title_source: str
    last_sequence: int


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the way of a send, seen under the locks."""

    active: int
    running_id: UUID | None
    known_fingerprint: bytes | None
    known_generation_id: UUID | None


class NewMessages(msgspec.Struct, frozen=True, kw_only=True):
    """All that one send writes. `content` is None when the question is there already, `title` when it stays."""

    generation: Generation
    session_id: UUID
    parent_id: UUID | None
    content: str | None
    title: str | None
    key: str | None
    fingerprint: bytes
    key_seconds: float
    events: Sequence[str]
    feed: Sequence[dict[str, Any]]


async def lock(executor: Executor, user_id: UUID, chat_id: UUID) -> ChatHead:
    """Raises NotFound. From here to the commit, sends in one chat and sends of one person take turns.

    The chat before the user: the order that everybody keeps.
    """
    record = await executor.fetchrow(
        "SELECT c.id, c.archived_at IS NOT NULL AS archived, c.model_used, c.parameters, c.leaf_id, c.title_source, "
        "c.last_sequence FROM chats c JOIN users u ON u.id = c.user_id WHERE c.id = $1 AND c.user_id = $2 "
        "FOR UPDATE OF c FOR NO KEY UPDATE OF u",
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return ChatHead(**dict(record))


async def look(
    executor: Executor, user_id: UUID, chat_id: UUID, *, key: str | None, derived: bool, grace: float
) -> Situation:
    """A statement of its own: one that waited for a lock still sees the world before it.

    A key that the server derived holds while its answer is made, and `grace` seconds longer if its end was never
    written to a reader (protocol §2.3).
    """
    record: Record | None = await executor.fetchrow(
        f"""
        SELECT (SELECT count(*) FROM generations WHERE user_id = $1 AND status IN {ACTIVE}) AS active,
               (SELECT id FROM generations WHERE chat_id = $2 AND status IN {ACTIVE}) AS running_id,
               known.fingerprint AS known_fingerprint, known.generation_id AS known_generation_id
        FROM (SELECT 1) AS one LEFT JOIN LATERAL (
            SELECT k.fingerprint, k.generation_id FROM idempotency_keys k JOIN generations g ON g.id = k.generation_id
            WHERE k.user_id = $1 AND k.chat_id = $2 AND k.key = $3 AND CASE WHEN $4 THEN g.status IN {ACTIVE}
                OR (g.delivered_at IS NULL AND g.finished_at > now() - make_interval(secs => $5))
                ELSE k.expires_at > now() END
        ) known ON true
        """,
        user_id,
        chat_id,
        key,
        derived,
        grace,
    )
    if record is None:
        raise NotFound
    return Situation(**dict(record))


# The question goes in before its answer, in one INSERT: the trigger of the second row sees the first.
_WRITE = """
WITH numbered AS (
    UPDATE chats SET last_sequence = last_sequence + $3, message_count = message_count + $3, leaf_id = $4,
        title = coalesce($5, title), title_source = CASE WHEN $5 IS NULL THEN title_source ELSE 'text' END,
        version = CASE WHEN $5 IS NULL THEN version ELSE version + 1 END, updated_at = now()
    WHERE id = $1 RETURNING last_sequence - $3 AS before
), written AS (
    INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role, status, content, model, generation_id)
    SELECT m.id, $1, $2, m.parent_id, numbered.before + m.number, m.role, m.status, m.content, m.model, m.generation_id
    FROM numbered, (
        SELECT $6::uuid AS id, $7::uuid AS parent_id, 1 AS number, 'user' AS role, 'completed' AS status,
               $8::text AS content, '' AS model, NULL::uuid AS generation_id WHERE $8::text IS NOT NULL
        UNION ALL
        SELECT $4::uuid, $6::uuid, $3, 'assistant', 'streaming', '', $9::text, $10::uuid
    ) m ORDER BY m.number
), made AS (
    INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, session_id, status, epoch, owner_node,
        model, parameters, prefix, derived_key)
    SELECT $10, $2, $1, $4, $6, $11, 'queued', 1, $12, $9, $13, $14, $15 FROM numbered
), logged AS (
    INSERT INTO generation_events (generation_id, seq, payload)
    SELECT $10, e.number - 1, e.payload FROM unnest($16::text[]) WITH ORDINALITY AS e (payload, number)
), keyed AS (
    INSERT INTO idempotency_keys (user_id, chat_id, key, fingerprint, generation_id, expires_at)
    SELECT $2, $1, $17, $18, $10, now() + make_interval(secs => $19) FROM numbered WHERE $17::text IS NOT NULL
    ON CONFLICT (chat_id, user_id, key) DO UPDATE SET fingerprint = excluded.fingerprint,
        generation_id = excluded.generation_id, expires_at = excluded.expires_at
), told AS (
    UPDATE users SET last_event_seq = last_event_seq + cardinality($20::text[]) WHERE id = $2
    RETURNING last_event_seq - cardinality($20::text[]) AS before
), fed AS (
    INSERT INTO user_events (user_id, seq, payload)
    SELECT $2, told.before + e.number, e.payload FROM told, unnest($20::text[]) WITH ORDINALITY AS e (payload, number)
)
SELECT numbered.before + 1 AS sequence_number, now() AS created_at FROM numbered
"""


async def write(executor: Executor, new: NewMessages) -> tuple[int, datetime]:
    """Question, empty answer, generation, first events, key and feed; `lock` must have been called.

    The sequence number of the first message that was written, and when. Raises NotFound.
    """
    generation = new.generation
    record = await executor.fetchrow(
        _WRITE,
        generation.chat_id,
        generation.user_id,
        1 if new.content is None else 2,
        generation.message_id,
        new.title,
        generation.user_message_id,
        new.parent_id,
        new.content,
        generation.model,
        generation.id,
        new.session_id,
        generation.owner_node,
        generation.parameters,
        generation.prefix,
        generation.derived_key,
        list(new.events),
        new.key,
        new.fingerprint,
        new.key_seconds,
        [encode(event) for event in new.feed],
    )
    if record is None:
        raise NotFound
    return record["sequence_number"], record["created_at"]
