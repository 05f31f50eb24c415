"""A person, a chat and an answer as rows, for tests below the services."""

from __future__ import annotations

from uuid import UUID

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.models.chats import ChatParameters
from llmchatbot.models.generations import Status, Usage
from llmchatbot.repositories import chats
from llmchatbot.streaming.store import Ending


async def make_user(db: Database) -> UUID:
    user_id = new_id()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, 'u')", user_id, f"{user_id}@x.org")
    return user_id


async def make_chat(db: Database, user_id: UUID, title: str = "t") -> UUID:
    chat_id = new_id()
    await chats.insert(
        db,
        chat_id=chat_id,
        user_id=user_id,
        title=title,
        title_source="user",
        model_used="",
        parameters=ChatParameters(),
    )
    return chat_id


async def make_running_answer(db: Database, user_id: UUID, chat_id: UUID, node_id: UUID) -> Ending:
    """An answer in the making, without an event; how it ends."""
    generation_id, message_id = new_id(), new_id()
    await db.execute(
        "INSERT INTO messages (id, chat_id, user_id, sequence_number, role, status, generation_id) "
        "VALUES ($1, $2, $3, 1, 'assistant', 'streaming', $4)",
        message_id,
        chat_id,
        user_id,
        generation_id,
    )
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, status, owner_node, model) "
        "VALUES ($1, $2, $3, $4, $4, 'running', $5, 'm')",
        generation_id,
        user_id,
        chat_id,
        message_id,
        node_id,
    )
    return Ending(
        generation_id=generation_id,
        epoch=1,
        seq=0,
        status=Status.COMPLETED,
        message_id=message_id,
        payload="{}",
        content="",
        reasoning="",
        usage=Usage(),
        finish_reason="stop",
        error_code=None,
        model="m",
        upstream="",
        cost=None,
        feed={"type": "generation.ended"},
    )
