"""Deleting a chat for good while its answer is being made."""

from __future__ import annotations

import asyncio

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.services.chats import ChatService
from llmchatbot.streaming import payloads, wakeups
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


async def test_deleting_a_chat_does_not_delete_what_its_answer_has_cost(db: Database) -> None:
    """I6. LiteLLM #30630, bitrouter #537: usage that is lost with the client is a way around every quota."""
    user, chat, question = new_id(), new_id(), new_id()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, 'u')", user, f"{user}@x.org")
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat, user)
    await db.execute(
        "INSERT INTO messages (id, chat_id, user_id, sequence_number, role, content) "
        "VALUES ($1, $2, $3, 1, 'user', 'eight ch')",
        question,
        chat,
        user,
    )
    generation = new_id()
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, prefix, prompt) "
        "VALUES ($1, $2, $3, $4, $5, 'm', 'kept', $6)",
        generation,
        user,
        chat,
        new_id(),
        question,
        {"message_ids": [str(question)]},
    )
    texts = ("kept", "f\u00fcnf ", "\U0001f600 and more")
    for seq, payload in enumerate(['{"type":"start"}', *map(payloads.token, texts)]):
        await db.execute("INSERT INTO generation_events VALUES ($1, $2, $3)", generation, seq, payload)
    await ChatService(database=db, wakeups=LocalWakeUps()).delete(user, chat)
    row = await db.fetchrow(
        "SELECT input_tokens, output_tokens, estimated FROM usage WHERE generation_id = $1", generation
    )
    assert row is not None
    assert tuple(row) == (2, 4, True)
