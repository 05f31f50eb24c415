"""Chats that no model would write in the time of a test."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg


async def insert_chat(sql: asyncpg.Connection[Any], user: str, title: str, count: int) -> UUID:
    """A chat of `count` messages in one statement each; a model would need hours."""
    chat: UUID = await sql.fetchval(
        "INSERT INTO chats (id, user_id, title, title_source, model_used, last_sequence, message_count) "
        "VALUES (gen_random_uuid(), $1, $2, 'user', 'scripted', $3, $3) RETURNING id",
        UUID(user),
        title,
        count,
    )
    await sql.execute("ALTER TABLE messages DISABLE TRIGGER messages_run_start")
    await sql.execute(
        """
        WITH ids AS (SELECT n, gen_random_uuid() AS id FROM generate_series(1, $3::int) AS n)
        INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role, content, model, run_start)
        SELECT ids.id, $1, $2, before.id, ids.n, CASE WHEN ids.n % 2 = 1 THEN 'user' ELSE 'assistant' END,
               'Message number ' || ids.n || E'. It has a list:\n\n- one\n- **two**\n\n```python\nprint(1)\n```',
               'scripted', 1
        FROM ids LEFT JOIN ids AS before ON before.n = ids.n - 1
        """,
        chat,
        UUID(user),
        count,
    )
    await sql.execute("ALTER TABLE messages ENABLE TRIGGER messages_run_start")
    await sql.execute(
        "UPDATE chats SET leaf_id = (SELECT id FROM messages WHERE chat_id = $1 ORDER BY sequence_number DESC LIMIT 1) "
        "WHERE id = $1",
        chat,
    )
    return chat
