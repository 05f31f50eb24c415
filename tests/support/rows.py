"""A person and a chat as rows, for tests below the services."""

from __future__ import annotations

from uuid import UUID

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.models.chats import ChatParameters
from llmchatbot.repositories import chats


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
