"""Sending without a transaction: what changed between the look and the write keeps anything from being written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from estimates import accounting
from rows import make_chat, make_user

from llmchatbot.database.pool import Database
from llmchatbot.errors import NotFound
from llmchatbot.ids import new_id
from llmchatbot.models.generations import Generation, Status
from llmchatbot.repositories import chats, messages, sending
from llmchatbot.repositories.sending import NewMessages, Situation
from llmchatbot.services.chats import ChatService
from llmchatbot.streaming.wakeups import LocalWakeUps

MOST_ACTIVE = 3
NOTHING: dict[str, Any] = {"parameters": {}, "prefix": "", "derived_key": False} | dict.fromkeys(
    ("owner_node", "last_seq", "finish_reason", "error_code", "stop_requested_at", "created_at", "finished_at")
)
Change = Callable[[Any, UUID, UUID], Awaitable[Any]]


async def look(
    db: Database, user_id: UUID, chat_id: UUID, after: UUID | msgspec.UnsetType | None = msgspec.UNSET
) -> Situation:
    return await sending.look(db, user_id, chat_id, key=None, derived=False, grace=10, after=after)


async def write(
    executor: Any, user_id: UUID, seen: Situation, content: str | None = "hi", *, most_active: int = MOST_ACTIVE
) -> tuple[UUID, int] | None:
    """The answer's message and the question's number; None when nothing was written."""
    generation = Generation(
        id=new_id(),
        user_id=user_id,
        chat_id=seen.id,
        message_id=new_id(),
        user_message_id=new_id() if content is not None else seen.branch[-1].id,
        status=Status.RUNNING,
        epoch=1,
        model="m",
        **NOTHING,
    )
    new = NewMessages(
        generation=generation,
        prompt={"model": "m"},
        session_id=new_id(),
        parent_id=seen.branch[-1].id if seen.branch else None,
        content=content,
        title=None,
        key=str(generation.id),
        fingerprint=b"f",
        key_seconds=60,
        events=['{"type":"start"}'],
        feed=[{"type": "generation.started"}],
    )
    written = await sending.write(executor, seen, new, most_active=most_active)
    return None if written is None else (generation.message_id, written[0])


async def end(db: Database, chat_id: UUID) -> None:
    await db.execute("UPDATE generations SET status = 'completed' WHERE chat_id = $1", chat_id)


async def rows(db: Database) -> list[int]:
    """Of every table that a send writes."""
    tables = ("messages", "generations", "generation_events", "idempotency_keys", "user_events")
    return [await db.fetchval(f"SELECT count(*) FROM {table}") for table in tables]  # constants


async def rename(executor: Any, user_id: UUID, chat_id: UUID) -> None:
    await executor.execute("UPDATE chats SET title = 'other', version = version + 1 WHERE id = $1", chat_id)


async def archive(executor: Any, user_id: UUID, chat_id: UUID) -> None:
    await chats.set_archived(executor, user_id, [chat_id], True)


async def delete(executor: Any, user_id: UUID, chat_id: UUID) -> None:
    await chats.delete(executor, user_id, [chat_id])


async def move(executor: Any, user_id: UUID, chat_id: UUID) -> None:
    await chats.set_leaf(executor, user_id, chat_id, new_id())


async def send(executor: Any, user_id: UUID, chat_id: UUID) -> None:
    seen = await sending.look(executor, user_id, chat_id, key=None, derived=False, grace=10, after=msgspec.UNSET)
    assert await write(executor, user_id, seen) is not None


CHANGES = [rename, archive, delete, move, send]


@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_is_written_to_a_chat_that_changed_since_the_look(db: Database, change: Change) -> None:
    user_id = await make_user(db)
    chat_id = await make_chat(db, user_id)
    seen = await look(db, user_id, chat_id)
    await change(db, user_id, chat_id)
    before = await rows(db)
    assert await write(db, user_id, seen) is None
    assert await rows(db) == before


@pytest.mark.parametrize("change", CHANGES)
async def test_what_waited_for_a_lock_sees_what_was_done_under_it(db: Database, change: Change) -> None:
    """The snapshot of the statement is older than the change: the row's newest version must decide."""
    user_id = await make_user(db)
    chat_id = await make_chat(db, user_id)
    seen = await look(db, user_id, chat_id)
    async with db.transaction() as transaction:
        await change(transaction, user_id, chat_id)
        waiting = asyncio.create_task(write(db, user_id, seen))
        await until_somebody_waits(db)
    before = await rows(db)
    assert await waiting is None
    assert await rows(db) == before


async def until_somebody_waits(db: Database) -> None:
    async with asyncio.timeout(5):
        while not await db.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 # not ours
            await asyncio.sleep(0.01)


async def test_an_answer_that_begins_elsewhere_meanwhile_counts_against_the_limit(db: Database) -> None:
    """Both looked when there was room for one more; only one of them gets it."""
    user_id = await make_user(db)
    first, second, *others = [await make_chat(db, user_id) for _ in range(MOST_ACTIVE + 1)]
    for chat_id in others:
        await send(db, user_id, chat_id)
    seen = [await look(db, user_id, chat_id) for chat_id in (first, second)]
    assert [one.active for one in seen] == [MOST_ACTIVE - 1] * 2
    written = await asyncio.gather(*(write(db, user_id, one) for one in seen))
    assert sorted(one is None for one in written) == [False, True]


async def test_many_at_once_in_many_chats_never_pass_the_limit(db: Database) -> None:
    user_id = await make_user(db)
    chat_ids = [await make_chat(db, user_id) for _ in range(12)]

    async def insist(chat_id: UUID) -> bool:
        for _ in range(40):
            seen = await look(db, user_id, chat_id)
            assert seen.active <= MOST_ACTIVE
            if seen.active < MOST_ACTIVE and await write(db, user_id, seen) is not None:
                return True
        return False

    begun = await asyncio.gather(*map(insist, chat_ids))
    assert sum(begun) == MOST_ACTIVE
    assert await db.fetchval("SELECT count(*) FROM generations WHERE user_id = $1", user_id) == MOST_ACTIVE


async def test_an_end_between_look_and_write_takes_no_room_away_for_good(db: Database) -> None:
    """It counts as one more at first, since only its number in the feed is seen; the next look tells them apart."""
    user_id = await make_user(db)
    chat_id, *others = [await make_chat(db, user_id) for _ in range(MOST_ACTIVE)]
    for other in others:
        await send(db, user_id, other)
    seen = await look(db, user_id, chat_id)
    await end(db, others[0])
    await db.execute("UPDATE users SET last_event_seq = last_event_seq + 1 WHERE id = $1", user_id)
    assert await write(db, user_id, seen) is None
    assert await write(db, user_id, await look(db, user_id, chat_id)) is not None


async def test_somebody_elses_chat_is_not_there_to_look_at(db: Database) -> None:
    chat_id = await make_chat(db, await make_user(db))
    with pytest.raises(NotFound):
        await look(db, await make_user(db), chat_id)


async def test_the_branch_of_a_look_is_the_way_from_the_root_to_its_end(db: Database) -> None:
    """Against a walk along the parents, in a tree that grew at random places."""
    user_id = await make_user(db)
    chat_id = await make_chat(db, user_id)
    rng = random.Random(1)
    answers: list[UUID] = []
    for number in range(40):
        after = rng.choice(answers) if answers and number % 3 == 0 else msgspec.UNSET
        written = await write(db, user_id, await look(db, user_id, chat_id, after), f"question {number}")
        assert written is not None
        answers.append(written[0])
        await end(db, chat_id)
    records = await db.fetch("SELECT id, parent_id FROM messages WHERE chat_id = $1", chat_id)
    parents = {record["id"]: record["parent_id"] for record in records}
    for leaf_id in answers:
        walk: list[UUID] = []
        step: UUID | None = leaf_id
        while step is not None:
            walk.insert(0, step)
            step = parents[step]
        seen = await look(db, user_id, chat_id, leaf_id)
        assert [message.id for message in seen.branch] == walk
        assert [message.role for message in seen.branch] == ["user", "assistant"] * (len(walk) // 2)
        for limit in (1, 2, 5):
            newest = await messages.branch(db, chat_id, leaf_id, limit)
            assert [message.id for message in newest] == walk[-limit:]
    assert (await look(db, user_id, chat_id)).branch[-1].id == answers[-1], "unset: where the chat ends"
    assert (await look(db, user_id, chat_id, None)).branch == [], "None: a new beginning"


async def test_a_look_at_a_chat_that_is_busy_reads_no_branch(db: Database) -> None:
    """Whoever asks a long chat again and again while it answers would have all its text read each time."""
    user_id = await make_user(db)
    chat_id = await make_chat(db, user_id)
    written = await write(db, user_id, await look(db, user_id, chat_id))
    assert written is not None
    seen = await look(db, user_id, chat_id, written[0])
    assert seen.running_id is not None
    assert seen.branch == []
    assert seen.after_role == "assistant", "what is wrong with a request is known all the same"
    await end(db, chat_id)
    assert len((await look(db, user_id, chat_id, written[0])).branch) == 2


async def test_chats_made_and_answers_begun_at_once_by_one_person_never_block_each_other(db: Database) -> None:
    """Found by the drill `kill-node`: rows locked and then updated in one statement made deadlocks, and a 500."""
    service = ChatService(database=db, wakeups=LocalWakeUps(), accounting=accounting())

    async def begin(user_id: UUID) -> None:
        chat = (await service.create(user_id)).chat
        for _ in range(10):
            if await write(db, user_id, await look(db, user_id, chat.id), most_active=100) is not None:
                return
        raise AssertionError("never written")

    for _ in range(30):
        user_id = await make_user(db)
        await asyncio.gather(*(begin(user_id) for _ in range(8)))
        assert await db.fetchval("SELECT count(*) FROM generations WHERE user_id = $1", user_id) == 8
