"""What is cleaned up, and what is kept: partitions of the log are made ahead and dropped whole (protocol §4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.ids import new_id, time_floor
from llmchatbot.repositories import partitions
from llmchatbot.services import batches
from llmchatbot.services.maintenance import MaintenanceService

HOUR = partitions.HOUR_MILLISECONDS


class Others:
    def __init__(self) -> None:
        self.calls = 0

    async def clean(self) -> None:
        self.calls += 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def maintenance(db: Database, clock: ManualClock, others: Others) -> MaintenanceService:
    return MaintenanceService(db, clock, retention_seconds=3600, more=others.clean)


def hour_of(clock: ManualClock) -> int:
    return partitions.hour_of(int(clock.now().timestamp() * 1000))


async def make_answer(db: Database, clock: ManualClock, *, ended: bool) -> UUID:
    """One event of an answer that began now."""
    generation, user, chat = (UUID(int=time_floor(int(clock.now().timestamp() * 1000)).int + n) for n in (1, 2, 3))
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, 'u')", user, f"{user}@x.org")
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat, user)
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, status, finished_at) "
        "VALUES ($1, $2, $3, $1, $1, 'm', $4, $5)",
        generation,
        user,
        chat,
        "completed" if ended else "running",
        clock.now() if ended else None,
    )
    await db.execute("INSERT INTO generation_events (generation_id, seq, payload) VALUES ($1, 0, '{}')", generation)
    return generation


async def count_events(db: Database) -> int:
    count: int = await db.fetchval("SELECT count(*) FROM generation_events")
    return count


async def test_this_hour_and_the_next_three_have_a_partition(
    db: Database, maintenance: MaintenanceService, clock: ManualClock, others: Others
) -> None:
    await maintenance.once()
    now = hour_of(clock)
    assert await partitions.hours(db) == [now, now + 1, now + 2, now + 3]
    assert others.calls == 1


async def test_events_lie_in_the_partition_of_the_hour_their_answer_began(
    db: Database, maintenance: MaintenanceService, clock: ManualClock
) -> None:
    await maintenance.once()
    await make_answer(db, clock, ended=True)
    assert await db.fetchval(f"SELECT count(*) FROM generation_events_h{hour_of(clock)}") == 1
    assert await db.fetchval("SELECT count(*) FROM generation_events_default") == 0


async def test_log_is_dropped_after_its_retention_and_not_before(
    db: Database, maintenance: MaintenanceService, clock: ManualClock
) -> None:
    await maintenance.once()
    await make_answer(db, clock, ended=True)
    began = hour_of(clock)
    clock.advance(2 * 3600)
    await maintenance.once()
    assert began in await partitions.hours(db), "an hour and a part of one may be younger than the retention"
    clock.advance(3600)
    await maintenance.once()
    assert began not in await partitions.hours(db)
    assert await count_events(db) == 0


async def test_log_of_an_answer_in_the_making_is_kept(
    db: Database, maintenance: MaintenanceService, clock: ManualClock
) -> None:
    await maintenance.once()
    await make_answer(db, clock, ended=False)
    clock.advance(10 * 3600)
    await maintenance.once()
    assert await count_events(db) == 1


async def test_events_without_a_partition_are_caught_and_cleared_a_day_later(
    db: Database, maintenance: MaintenanceService, clock: ManualClock
) -> None:
    await make_answer(db, clock, ended=True)
    assert await db.fetchval("SELECT count(*) FROM generation_events_default") == 1
    await maintenance.once()
    assert hour_of(clock) not in await partitions.hours(db), "its rows lie in the default partition"
    assert await count_events(db) == 1
    clock.advance(timedelta(days=2).total_seconds())
    await maintenance.once()
    assert await count_events(db) == 0


async def test_old_part_of_a_feed_is_forgotten_without_a_hole(db: Database, maintenance: MaintenanceService) -> None:
    """A transaction that began earlier may have got the later number: a hole would shift every cursor behind it."""
    user = new_id()
    await db.execute("INSERT INTO users (id, email, username, last_event_seq) VALUES ($1, 'a@x.org', 'u', 3)", user)
    for seq, age in enumerate((90_000, 80_000, 90_000, 10)):
        await db.execute(
            "INSERT INTO user_events VALUES ($1, $2, '{}', now() - make_interval(secs => $3))", user, seq, age
        )
    await maintenance.once()
    assert [row["seq"] for row in await db.fetch("SELECT seq FROM user_events ORDER BY seq")] == [3]


async def test_only_one_process_of_all_is_at_it(db: Database, clock: ManualClock) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MaintenanceService):
        async def make_partitions(self) -> None:
            under_way.set()
            await go_on.wait()

    first, second = Others(), Others()
    slow = asyncio.create_task(Slow(db, clock, retention_seconds=3600, more=first.clean).once())
    await under_way.wait()
    await MaintenanceService(db, clock, retention_seconds=3600, more=second.clean).once()
    assert second.calls == 0
    go_on.set()
    await slow
    assert first.calls == 1


class Deletions:
    """What each DELETE of a connection has removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        execute = Database.execute

        async def counting(database: Database, query: str, *arguments: Any) -> str:
            tag = await execute(database, query, *arguments)
            if tag.startswith("DELETE"):
                self.counts.append(int(tag.split()[1]))
            return tag

        monkeypatch.setattr(Database, "execute", counting)


_KEYS = """
INSERT INTO idempotency_keys (user_id, chat_id, key, fingerprint, generation_id, expires_at)
SELECT $2, $3, n::text, '', $4, $5 FROM generate_series(1, $1::int) n
"""
_TICKETS = """
INSERT INTO stream_tickets (hash, generation_id, user_id, session_id, expires_at)
SELECT n::text::bytea, $2, $3, $3, $4 FROM generate_series(1, $1::int) n
"""
_FEED = """
INSERT INTO user_events (user_id, seq, payload, created_at) SELECT $2, n, '{}', $3 FROM generate_series(1, $1::int) n
"""
_NODES = """
INSERT INTO nodes (id, name, lease_until, fenced_at)
SELECT gen_random_uuid(), 'n', $2, $2 FROM generate_series(1, $1::int) n
"""
_EVENTS = """
INSERT INTO generation_events_default (generation_id, seq, payload)
SELECT $2, n, '{}' FROM generate_series(1, $1::int) n
"""


async def pile_up(db: Database, clock: ManualClock, count: int) -> None:
    """So many expired rows of each kind that is removed row by row."""
    long_ago = clock.now() - timedelta(days=60)
    user, chat, generation = uuid4(), uuid4(), uuid4()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, 'a@x.org', 'u')", user)
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat, user)
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, status) "
        "VALUES ($1, $2, $3, $1, $1, 'm', 'completed')",
        *(generation, user, chat),
    )
    await db.execute(_KEYS, count, user, chat, generation, long_ago)
    await db.execute(_TICKETS, count, generation, user, long_ago)
    await db.execute(_FEED, count, user, long_ago)
    await db.execute(_NODES, count, long_ago)
    await db.execute(_EVENTS, count, time_floor(int(long_ago.timestamp() * 1000)))


async def test_what_has_piled_up_is_removed_in_small_statements(
    db: Database, maintenance: MaintenanceService, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week without clean-up must not become one statement that runs into the time limit for ever."""
    await pile_up(db, clock, 2 * batches.BATCH + 7)
    deletions = Deletions(monkeypatch)
    await maintenance.once()
    assert max(deletions.counts) == batches.BATCH
    assert sorted(deletions.counts) == [7] * 5 + [batches.BATCH] * 10
    for table in ("idempotency_keys", "stream_tickets", "user_events", "nodes", "generation_events_default"):
        assert await db.fetchval(f"SELECT count(*) FROM {table}") == 0, table


async def test_a_clean_up_that_never_ends_in_time_does_not_keep_the_others_from_theirs(
    db: Database, clock: ManualClock, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pile_up(db, clock, 3)
    execute = Database.execute

    async def stuck(database: Database, query: str, *arguments: Any) -> str:
        if query.startswith("DELETE FROM idempotency_keys"):
            raise DatabaseUnavailable
        return await execute(database, query, *arguments)

    monkeypatch.setattr(Database, "execute", stuck)
    await MaintenanceService(db, clock, retention_seconds=3600, more=others.clean).once()
    assert await db.fetchval("SELECT count(*) FROM stream_tickets") == 0
    assert others.calls == 1
