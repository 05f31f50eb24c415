"""Chats and messages in the database: the plans behind the pages, and who waits for whom."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from estimates import accounting
from rows import make_chat, make_running_answer, make_user

from llmchatbot.database.pool import Connection, Database
from llmchatbot.errors import NotFound
from llmchatbot.ids import new_id
from llmchatbot.models.chats import ChatChanges, ChatKey
from llmchatbot.models.generations import Cursor
from llmchatbot.repositories import chats, messages_read, search, user_events
from llmchatbot.repositories.answer_log import PostgresAnswerLog
from llmchatbot.services.chats import ChatService
from llmchatbot.services.feed import FeedService
from llmchatbot.streaming.store import Finish
from llmchatbot.streaming.wakeups import LocalWakeUps

Plan = dict[str, Any]


class Explainer:
    """An executor that asks for the plan instead of the rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.plan: Plan = {}

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        (row,) = await self._connection.fetch(f"EXPLAIN (FORMAT JSON) {query}", *args)
        self.plan = json.loads(row[0])[0]["Plan"]
        return []

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        raise NotImplementedError

    async def fetchval(self, query: str, *args: Any) -> Any:
        raise NotImplementedError

    async def execute(self, query: str, *args: Any) -> str:
        raise NotImplementedError


def nodes(plan: Plan) -> list[tuple[str, str]]:
    """(kind, index or table) of all nodes, from the top down."""
    found = [(plan["Node Type"], plan.get("Index Name") or plan.get("Relation Name", ""))]
    for child in plan.get("Plans", []):
        found += nodes(child)
    return found


@pytest.fixture
async def many_chats(db: Database) -> UUID:
    """Somebody's ten chats among two thousand of others, half of them archived."""
    user_id, other = await make_user(db), await make_user(db)
    await db.execute(
        "INSERT INTO chats (id, user_id, title, updated_at, archived_at) "
        "SELECT gen_random_uuid(), CASE WHEN n % 200 = 0 THEN $1::uuid ELSE $2::uuid END, 'title ' || n, "
        "now() - n * interval '1 minute', CASE WHEN n % 2 = 0 THEN now() END FROM generate_series(1, 2000) n",
        user_id,
        other,
    )
    await db.execute("ANALYZE chats")
    return user_id


async def test_a_page_of_chats_is_read_in_the_order_of_an_index(db: Database, many_chats: UUID) -> None:
    other = await db.fetchval("SELECT user_id FROM chats WHERE user_id <> $1 LIMIT 1", many_chats)
    key = ChatKey(await db.fetchval("SELECT now() - interval '3 hours'"), new_id())
    async with db.acquire() as connection:
        explainer = Explainer(connection)
        for include_archived, index in ((False, "chats_list"), (True, "chats_list_all")):
            for after in (None, key):
                await chats.list_page(explainer, other, include_archived=include_archived, after=after, limit=21)
                assert nodes(explainer.plan) == [("Limit", ""), ("Index Scan", index)]


async def test_a_search_asks_the_index_for_its_owners_terms(db: Database, many_chats: UUID) -> None:
    async with db.acquire() as connection:
        # In a table as small as this one reading all of it would be cheaper.
        await connection.execute("SET enable_seqscan = off")
        explainer = Explainer(connection)
        await search.search(explainer, many_chats, "some word", ["some", "word"], after=None, limit=21)
        await connection.execute("RESET enable_seqscan")
    kinds = nodes(explainer.plan)
    assert ("Bitmap Index Scan", "messages_search") in kinds
    assert ("Bitmap Index Scan", "chats_search") in kinds
    assert not [kind for kind, _ in kinds if kind.startswith(("Seq", "Gather"))]


async def test_a_search_asks_the_index_before_there_are_statistics(db: Database) -> None:
    """The planner would read all of somebody's chats and make the vector of each: 1 ms for 26 of them, not 0.2."""
    user_id = await make_user(db)
    await db.execute(
        "INSERT INTO chats (id, user_id, title) SELECT gen_random_uuid(), $1, 'title ' || n "
        "FROM generate_series(1, 26) n",
        user_id,
    )
    async with db.acquire() as connection:
        explainer = Explainer(connection)
        await search.search(explainer, user_id, "some word", ["some", "word"], after=None, limit=21)
    assert ("Bitmap Index Scan", "chats_search") in nodes(explainer.plan)


async def test_deleting_a_chat_never_reads_a_whole_table(db: Database) -> None:
    """Every foreign key that a deletion follows has an index that begins with it."""
    missing = await db.fetch(
        """
        SELECT conrelid::regclass::text || '.' || attname AS column_
        FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
        WHERE contype = 'f' AND confdeltype = 'c' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1] AND indpred IS NULL
        )
        """
    )
    assert [row["column_"] for row in missing] == []


async def test_each_writer_names_the_owner(db: Database) -> None:
    ada, bob = await make_user(db), await make_user(db)
    chat_id = await make_chat(db, bob)
    before = await db.fetchrow("SELECT * FROM chats")
    for refused in (
        chats.get_owned(db, ada, chat_id),
        chats.lock_owned(db, ada, chat_id),
        chats.update(db, ada, chat_id, ChatChanges(title="x")),
    ):
        with pytest.raises(NotFound):
            await refused
    assert await chats.set_archived(db, ada, [chat_id], True) == []
    assert await chats.delete(db, ada, [chat_id]) == []
    await chats.set_leaf(db, ada, chat_id, new_id())
    assert await messages_read.links_from(db, ada, chat_id, new_id()) == []
    assert await db.fetchrow("SELECT * FROM chats") == before


async def test_a_feed_of_many_events_is_numbered_in_their_order(db: Database) -> None:
    user_id = await make_user(db)
    await user_events.append(db, user_id)
    await user_events.append(db, user_id, {"n": 0}, {"n": 1}, {"n": 2})
    await user_events.append(db, user_id, {"n": 3})
    rows = await db.fetch("SELECT seq, payload FROM user_events ORDER BY seq")
    assert [(row["seq"], row["payload"]) for row in rows] == [(n, f'{{"n":{n}}}') for n in range(4)]


async def test_an_answer_that_ends_while_its_chat_is_deleted_locks_nobody_out(db: Database) -> None:
    """Whoever comes second waits, nobody is a victim; and either of them leaves the answer's usage behind (I6)."""
    user_id, node_id = await make_user(db), new_id()
    await db.execute("INSERT INTO nodes (id, name, lease_until) VALUES ($1, 'n', now() + interval '1 hour')", node_id)
    service = ChatService(database=db, wakeups=LocalWakeUps(), accounting=accounting())
    log = PostgresAnswerLog(rounds=db, endings=db)
    for _ in range(25):
        chat_id = await make_chat(db, user_id)
        ending = await make_running_answer(db, user_id, chat_id, node_id)
        outcome, _ = await asyncio.gather(log.finish(ending), service.delete(user_id, chat_id))
        assert outcome in {Finish.DONE, Finish.LOST}
        accounted = await db.fetchval("SELECT count(*) FROM usage WHERE generation_id = $1", ending.generation_id)
        assert accounted == 1
    assert await db.fetchval("SELECT count(*) FROM generations") == 0


async def test_feed_is_read_in_bounded_pieces_and_loses_nothing(db: Database) -> None:
    """An event holds its chat, and that a system prompt: five hundred of them were 190 MB for each reader."""
    user_id = await make_user(db)
    async with db.transaction() as transaction:
        for number in range(40):
            await user_events.append(transaction, user_id, {"n": number, "prompt": "x" * 100_000})
    service = FeedService(db, LocalWakeUps())
    first, last = await user_events.bounds(db, user_id)
    reading = await service.open(user_id, Cursor(user_id, first - 1))
    source, seen, seq = reading.source, [], reading.seq
    while seq < last:
        piece = source.since(seq + 1, 500)
        assert sum(map(len, piece)) < 500_000
        seen += [json.loads(payload)["n"] for payload in piece]
        seq += len(piece)
        if seq < last:
            await source.wait()
    service.close(source)
    assert seen == list(range(40))
