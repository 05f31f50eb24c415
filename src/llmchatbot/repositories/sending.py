"""The statements of one send: look, then write if nothing has changed since. Each is a transaction by itself.

A round trip costs both sides some 0.1 ms, and a transaction around them two more (docs/adr/0012-sending.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from llmchatbot.errors import NotFound
from llmchatbot.models.generations import Generation
from llmchatbot.repositories.executor import Executor
from llmchatbot.repositories.messages import BRANCH, LONGEST_BRANCH, BranchMessage
from llmchatbot.streaming.payloads import encode

ACTIVE = "('queued', 'running')"


# What the database's `require` raises.
_REQUIRED = "LC001"


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What a send needs of its chat, and what stands in its way, as of one moment. Nothing is locked."""

    id: UUID
    archived: bool
    model_used: str
    parameters: dict[str, Any]
    leaf_id: UUID | None
    title_source: str
    last_sequence: int
    version: int
    user_events: int
    """Number of the person's newest feed event."""
    active: int
    """Answers that are being written for the person, in all chats."""
    running_id: UUID | None
    known_fingerprint: bytes | None
    known_generation_id: UUID | None
    after_role: str | None
    """Of the message that was asked for as the branch's end; None when the chat has no such message."""
    branch: Sequence[BranchMessage]
    """Oldest first. Not read when the chat is archived or busy, or the key known: it would be for nothing."""


class NewMessages(msgspec.Struct, frozen=True, kw_only=True):
    """All that one send writes. `content` is None when the question is there already, `title` when it stays."""

    generation: Generation
    prompt: dict[str, Any]
    session_id: UUID
    parent_id: UUID | None
    content: str | None
    title: str | None
    key: str | None
    fingerprint: bytes
    key_seconds: float
    events: Sequence[str]
    feed: Sequence[dict[str, Any]]


# A key that the server derived holds while its answer is made, and `grace` seconds longer if its end was never written
# to a reader (protocol §2.3).
_FREE = "running.id IS NULL AND known.generation_id IS NULL AND c.archived_at IS NULL"
_LEAF = f"CASE WHEN {_FREE} THEN CASE WHEN $6 THEN c.leaf_id ELSE $7::uuid END END"
_LOOK = f"""
SELECT c.id, c.archived_at IS NOT NULL AS archived, c.model_used, c.parameters, c.leaf_id, c.title_source,
       c.last_sequence, c.version, u.last_event_seq AS user_events,
       (SELECT count(*) FROM generations WHERE user_id = $1 AND status IN {ACTIVE}) AS active,
       running.id AS running_id, known.fingerprint AS known_fingerprint, known.generation_id AS known_generation_id,
       (SELECT role FROM messages WHERE id = $7 AND chat_id = $2) AS after_role,
       branch.ids, branch.roles, branch.contents
FROM chats c JOIN users u ON u.id = c.user_id
LEFT JOIN LATERAL (SELECT id FROM generations WHERE chat_id = $2 AND status IN {ACTIVE}) running ON true
LEFT JOIN LATERAL (
    SELECT k.fingerprint, k.generation_id FROM idempotency_keys k JOIN generations g ON g.id = k.generation_id
    WHERE k.user_id = $1 AND k.chat_id = $2 AND k.key = $3 AND CASE WHEN $4 THEN g.status IN {ACTIVE}
        OR (g.delivered_at IS NULL AND g.finished_at > now() - make_interval(secs => $5))
        ELSE k.expires_at > now() END
) known ON true
LEFT JOIN LATERAL (
    SELECT array_agg(id) AS ids, array_agg(role) AS roles, array_agg(content) AS contents
    FROM ({BRANCH.format(chat="$2", leaf=_LEAF, limit=LONGEST_BRANCH)}) AS part
) branch ON true
WHERE c.id = $2 AND c.user_id = $1
"""


async def look(
    executor: Executor,
    user_id: UUID,
    chat_id: UUID,
    *,
    key: str | None,
    derived: bool,
    grace: float,
    after: UUID | msgspec.UnsetType | None,
) -> Situation:
    """Raises NotFound. The branch ends at `after`; unset, at the chat's leaf; with None there is none.

    One snapshot: what a running answer is about to write cannot be missing from the branch.
    """
    at_leaf = after is msgspec.UNSET
    record: Record | None = await executor.fetchrow(
        _LOOK, user_id, chat_id, key, derived, grace, at_leaf, None if at_leaf else after
    )
    if record is None:
        raise NotFound
    *head, ids, roles, contents = record
    newest_first = map(BranchMessage, ids or (), roles or (), contents or ())
    return Situation(**dict(zip(record.keys(), head, strict=False)), branch=[*newest_first][::-1])


# Written only while the chat is as it was seen: an UPDATE that waited for a row judges the row as it is then, and no
# answer begins in a chat without raising its `last_sequence`, nor anywhere without a new number in its person's feed.
# So an unchanged chat has no answer under way and no key that was not seen, and of one person's answers there are at
# most as many more as there are new numbers: that is counted against the limit, in $22. Where it is passed, everything
# is taken back.
#
# The chat before the user: the order that everybody keeps. No row is locked before it is updated: the statement would
# find its own lock on the newest version and go there by way of the oldest, where others wait for it.
# The question goes in before its answer, in one INSERT: the trigger of the second row sees the first.
_WRITE = """
WITH numbered AS (
    UPDATE chats SET last_sequence = last_sequence + $3, message_count = message_count + $3, leaf_id = $4,
        title = coalesce($5, title), title_source = CASE WHEN $5 IS NULL THEN title_source ELSE 'text' END,
        version = CASE WHEN $5 IS NULL THEN version ELSE version + 1 END, updated_at = now()
    WHERE id = $1 AND user_id = $2 AND archived_at IS NULL AND last_sequence = $19 AND version = $20
          AND leaf_id IS NOT DISTINCT FROM $21
    RETURNING last_sequence - $3 AS before
), told AS (
    UPDATE users SET last_event_seq = last_event_seq + cardinality($25::text[]) FROM numbered WHERE id = $2
    RETURNING last_event_seq - cardinality($25::text[]) AS before
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
    INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, session_id, status, started_at, epoch,
        owner_node, model, parameters, prefix, derived_key, prompt)
    SELECT $10, $2, $1, $4, $6, $11, 'running', now(), 1, $12, $9, $13, $14, $15, $23
    FROM told WHERE require(told.before < $22)
), logged AS (
    INSERT INTO generation_events (generation_id, seq, payload)
    SELECT $10, e.number - 1, e.payload FROM numbered, unnest($16::text[]) WITH ORDINALITY AS e (payload, number)
), keyed AS (
    INSERT INTO idempotency_keys (user_id, chat_id, key, fingerprint, generation_id, expires_at)
    SELECT $2, $1, $17, $18, $10, now() + make_interval(secs => $24) FROM numbered WHERE $17::text IS NOT NULL
    ON CONFLICT (chat_id, user_id, key) DO UPDATE SET fingerprint = excluded.fingerprint,
        generation_id = excluded.generation_id, expires_at = excluded.expires_at
), fed AS (
    INSERT INTO user_events (user_id, seq, payload)
    SELECT $2, told.before + e.number, e.payload FROM told, unnest($25::text[]) WITH ORDINALITY AS e (payload, number)
)
SELECT numbered.before + 1 AS sequence_number, now() AS created_at FROM numbered
"""


async def write(
    executor: Executor, seen: Situation, new: NewMessages, *, most_active: int
) -> tuple[int, datetime] | None:
    """Question, empty answer, generation with its prompt, first events, key and feed; all or nothing.

    The sequence number of the first message that was written, and when. None when the chat is not as it was `seen` any
    more, or the person might have `most_active` answers by now: look again.
    """
    try:
        record = await executor.fetchrow(_WRITE, *_arguments(seen, new, most_active))
    except asyncpg.PostgresError as error:
        if error.sqlstate != _REQUIRED:
            raise
        return None
    return None if record is None else (record["sequence_number"], record["created_at"])


def _arguments(seen: Situation, new: NewMessages, most_active: int) -> Sequence[Any]:
    """In the order of their numbers."""
    generation = new.generation
    return (
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
        seen.last_sequence,
        seen.version,
        seen.leaf_id,
        seen.user_events + most_active - seen.active,
        new.prompt,
        new.key_seconds,
        [encode(event) for event in new.feed],
    )
