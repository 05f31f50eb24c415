"""Deleting a chat for good while its answer is being made: nobody waits for ever, and the cost stays known."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

from estimates import accounting

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
    service = ChatService(database=db, wakeups=hints, accounting=accounting())
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


async def make_running(db: Database, *, model: str, asked: str, prompt: dict[str, Any] | None, shown: str) -> Any:
    """Somebody's chat whose answer is being made: (user, chat, generation)."""
    user, chat, generation, question = new_id(), new_id(), new_id(), new_id()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, 'u')", user, f"{user}@x.org")
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat, user)
    await db.execute(
        "INSERT INTO messages (id, chat_id, user_id, sequence_number, role, content) "
        "VALUES ($1, $2, $3, 1, 'user', $4)",
        question,
        chat,
        user,
        asked,
    )
    if prompt is not None:
        prompt = {**prompt, "message_ids": [str(question)]}
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, status, prompt) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        generation,
        user,
        chat,
        new_id(),
        question,
        model,
        "queued" if prompt is None else "running",
        prompt,
    )
    events = [payloads.encode({"type": "start"}), *(payloads.token(letter) for letter in shown)]
    await db.executemany(
        "INSERT INTO generation_events (generation_id, seq, payload) VALUES ($1, $2, $3)",
        [(generation, seq, payload) for seq, payload in enumerate(events)],
    )
    return user, chat, generation


async def usage_of(db: Database, generation: UUID) -> tuple[Any, ...]:
    row = await db.fetchrow(
        "SELECT user_id, model, input_tokens, output_tokens, estimated, cost, day = (now() AT TIME ZONE 'UTC')::date "
        "FROM usage WHERE generation_id = $1",
        generation,
    )
    assert row is not None, "an answer that somebody paid for left no trace"
    return tuple(row)


async def test_i6_an_answer_deleted_in_the_making_leaves_what_it_has_cost(db: Database) -> None:
    """What the model read and wrote until then, by our own estimate: deleting is no way around a quota."""
    service = ChatService(database=db, wakeups=LocalWakeUps(), accounting=accounting())
    user, chat, generation = await make_running(
        db, model="priced", asked="why?", prompt={"system_prompt": "be kind"}, shown="because"
    )
    await service.delete(user, chat)
    cost = Decimal(len("why?be kindbecause")) / 1_000_000
    assert await usage_of(db, generation) == (user, "priced", len("why?be kind"), len("because"), True, cost, True)
    assert await db.fetchval("SELECT count(*) FROM chats") == 0


async def test_i6_a_kept_text_that_an_answer_goes_on_from_is_not_accounted_again(db: Database) -> None:
    service = ChatService(database=db, wakeups=LocalWakeUps(), accounting=accounting())
    user, chat, generation = await make_running(db, model="m", asked="why?", prompt={}, shown="because")
    await db.execute("UPDATE generations SET prefix = 'bec' WHERE id = $1", generation)
    await service.delete(user, chat)
    assert (await usage_of(db, generation))[2:4] == (len("why?"), len("ause"))


async def test_i6_an_answer_deleted_before_its_model_was_asked_has_cost_nothing(db: Database) -> None:
    service = ChatService(database=db, wakeups=LocalWakeUps(), accounting=accounting())
    user, chat, generation = await make_running(db, model="m", asked="why?", prompt=None, shown="")
    assert await service.delete_many(user, [chat, new_id()]) == [chat]
    assert await usage_of(db, generation) == (user, "m", 0, 0, True, None, True)


async def test_i6_an_account_that_is_deleted_leaves_its_usage_without_a_name(db: Database) -> None:
    service = ChatService(database=db, wakeups=LocalWakeUps(), accounting=accounting())
    user, chat, generation = await make_running(db, model="m", asked="a", prompt={}, shown="b")
    await service.delete(user, chat)
    await db.execute("DELETE FROM users WHERE id = $1", user)
    assert await usage_of(db, generation) == (None, "m", 1, 1, True, None, True)
