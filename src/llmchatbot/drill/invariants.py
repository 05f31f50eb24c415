"""The invariants of protocol §1, asked of the database itself and compared with what readers saw.

SQL of its own: a check that went through the repositories would believe what they believe.
"""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

from llmchatbot.database.pool import Database
from llmchatbot.drill.arena import Arena, text_of
from llmchatbot.drill.outcome import Outcome
from llmchatbot.drill.reading import Follower

# Each query returns what breaks the rule; the database belongs to the drill alone.
_RULES = {
    "I1 events without gap": """
        SELECT generation_id, count(*) AS events, min(seq) AS first, max(seq) AS last FROM generation_events
        GROUP BY generation_id HAVING min(seq) <> 0 OR max(seq) <> count(*) - 1""",
    "I4 one terminal event, the last": """
        SELECT g.id FROM generations g LEFT JOIN generation_events e ON e.generation_id = g.id
        WHERE g.status NOT IN ('queued', 'running') GROUP BY g.id, g.last_seq
        HAVING count(*) FILTER (WHERE e.payload LIKE '{"type":"complete"%' OR e.payload LIKE '{"type":"error"%') <> 1
        OR max(e.seq) FILTER (WHERE e.payload LIKE '{"type":"complete"%' OR e.payload LIKE '{"type":"error"%')
           IS DISTINCT FROM g.last_seq OR max(e.seq) IS DISTINCT FROM g.last_seq""",
    "I4 no terminal event before the end": """
        SELECT g.id FROM generations g JOIN generation_events e ON e.generation_id = g.id
        WHERE g.status IN ('queued', 'running')
        AND (e.payload LIKE '{"type":"complete"%' OR e.payload LIKE '{"type":"error"%')""",
    "I6 a usage row for each end": """
        SELECT g.id FROM generations g LEFT JOIN usage u ON u.generation_id = g.id
        WHERE g.status NOT IN ('queued', 'running') AND u.generation_id IS NULL""",
    "I7 one active answer in a chat": """
        SELECT chat_id FROM generations WHERE status IN ('queued', 'running') GROUP BY chat_id HAVING count(*) > 1""",
    "I8 numbers dense and unique": """
        SELECT c.id FROM chats c LEFT JOIN messages m ON m.chat_id = c.id GROUP BY c.id, c.last_sequence
        HAVING count(m.id) <> c.last_sequence OR coalesce(max(m.sequence_number), 0) <> c.last_sequence
        OR count(DISTINCT m.sequence_number) <> count(m.id)""",
    "message and generation agree": """
        SELECT g.id, g.status, m.status AS message FROM generations g JOIN messages m ON m.id = g.message_id
        WHERE m.status <> CASE WHEN g.status IN ('queued', 'running') THEN 'streaming' ELSE g.status END""",
}

_ACTIVE = "SELECT count(*) FROM generations WHERE status IN ('queued', 'running')"
_SETTLE_SECONDS = 30.0


async def settle(database: Database, outcome: Outcome, *, seconds: float = _SETTLE_SECONDS) -> None:
    """Wait until no answer is in the making; one that never ends is an orphan."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while await database.fetchval(_ACTIVE):
        if loop.time() > deadline:
            for row in await database.fetch(
                "SELECT id, status, epoch, owner_node FROM generations WHERE status IN ('queued', 'running')"
            ):
                outcome.violate(f"orphan: {dict(row)}")
            return
        await asyncio.sleep(0.1)


async def check(database: Database, arena: Arena) -> None:
    """Everything that must hold once all is quiet."""
    outcome = arena.outcome
    await settle(database, outcome, seconds=_SETTLE_SECONDS + arena.pace.takeover)
    for rule, query in _RULES.items():
        for row in await database.fetch(query):
            outcome.violate(f"{rule}: {dict(row)}")
        outcome.count("rules checked")
    logs = await _logs(database, arena)
    await _check_texts(database, arena, logs)
    for follower in arena.followers:
        _check_shown(outcome, follower, logs.get(follower.generation_id, []))
    await _check_intents(database, arena)


async def _logs(database: Database, arena: Arena) -> dict[str, list[str]]:
    """The whole log of every answer that the plan asked for."""
    wanted = {sent.generation_id for sent in arena.sent} | {follower.generation_id for follower in arena.followers}
    logs: dict[str, list[str]] = {generation_id: [] for generation_id in wanted}
    ids = [UUID(generation_id) for generation_id in wanted]
    for first in range(0, len(ids), 200):
        for row in await database.fetch(
            "SELECT generation_id, payload FROM generation_events WHERE generation_id = ANY($1) "
            "ORDER BY generation_id, seq",
            ids[first : first + 200],
        ):
            logs[str(row["generation_id"])].append(row["payload"])
    return logs


async def _check_texts(database: Database, arena: Arena, logs: dict[str, list[str]]) -> None:
    """I5, and: text stored = text sent by the model."""
    outcome = arena.outcome
    rows = {
        str(row["id"]): row
        for row in await database.fetch(
            "SELECT g.id, g.status, m.content FROM generations g JOIN messages m ON m.id = g.message_id"
        )
    }
    for sent in arena.sent:
        row = rows.get(sent.generation_id)
        if row is None:
            outcome.violate(f"{sent.generation_id}: acknowledged and not stored")
            continue
        outcome.count("answers")
        outcome.count(f"answers {row['status']}")
        outcome.check(
            row["content"] == _concatenation(logs[sent.generation_id]),
            f"I5 {sent.generation_id}: the message is not the concatenation of its deltas",
        )
        outcome.check(row["status"] in sent.may_end, f"{sent.generation_id} ended as '{row['status']}'")
        whole = text_of(sent.script)
        stored: str = row["content"]
        good = stored == whole if row["status"] == "completed" else whole.startswith(stored)
        outcome.check(good, f"{sent.generation_id} ({row['status']}): the text stored is not what the model sent")


def _concatenation(payloads: list[str]) -> str:
    text = ""
    for payload in payloads:
        event = json.loads(payload)
        if event["type"] == "token":
            text += event["content"]
        elif event["type"] == "reset":
            text = event["content"]
    return text


def _check_shown(outcome: Outcome, follower: Follower, log: list[str]) -> None:
    """I3: whatever a reader saw is what the log holds, under the same number."""
    outcome.count("events seen", len(follower.payloads))
    for seq, payload in follower.payloads.items():
        if seq >= len(log) or log[seq] != payload:
            outcome.violate(f"I3 event {seq} of {follower.generation_id} was shown and is not what is stored")
            return


async def _check_intents(database: Database, arena: Arena) -> None:
    """Exactly one question, and one answer to it, for each time a person meant to send."""
    for chat, intents in arena.intents.items():
        row = await database.fetchrow(
            "SELECT count(*) FILTER (WHERE role = 'user') AS questions, "
            "(SELECT count(*) FROM generations WHERE chat_id = $1) AS answers FROM messages WHERE chat_id = $1",
            UUID(chat),
        )
        if row is not None and (row["questions"], row["answers"]) != (intents, intents):
            arena.outcome.violate(
                f"chat {chat}: {intents} intents, {row['questions']} questions, {row['answers']} answers"
            )
