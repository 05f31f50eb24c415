"""Deleting a chat for good while its answer is being made."""

from __future__ import annotations

import asyncio

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.services.chats import ChatService
from llmchatbot.streaming import wakeups
from llmchatbot.streaming.wakeups import LocalWakeUps


async def test_deleting_a_chat_and_ending_its_answer_lock_in_the_same_order(db: Database) -> None:
    """The end of an answer holds the chat and wants the answer: who deletes must not hold what it wants."""
    user, chat, generation = new_id(), new_id(), new_id()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, 'u')", user, f"{user}@x.org")
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat, user)
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, epoch) "
        "VALUES ($1, $2, $3, $4, $5, 'm', 1)",
        generation,
        user,
        chat,
        new_id(),
        new_id(),
    )
    hints = LocalWakeUps()
    told: list[str] = []
    for topic in (wakeups.STOP, wakeups.ENDED):
        hints.subscribe(topic, told.append)
    service = ChatService(database=db, wakeups=hints)
    async with db.transaction() as ending:
        await ending.execute("SELECT FROM chats WHERE id = $1 FOR NO KEY UPDATE", chat)
        deleting = asyncio.create_task(service.delete(user, chat))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        for _ in range(500):
            if await db.fetchval(waiting):
                break
            await asyncio.sleep(0.01)
        await ending.execute("SET LOCAL lock_timeout = '300ms'")
        await ending.execute("UPDATE chats SET updated_at = now() WHERE id = $1", chat)
        await ending.execute("SELECT FROM generations WHERE id = $1 FOR UPDATE", generation)
    await deleting
    assert await db.fetchval("SELECT count(*) FROM generations WHERE id = $1", generation) == 0
    # Stopped by whoever makes it, and ended for whoever follows it.
    assert told == [str(generation), str(generation)]
