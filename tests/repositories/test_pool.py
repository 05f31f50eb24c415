"""The border to PostgreSQL: what is lost, full or silent is DatabaseUnavailable; verdicts and our own mistakes pass."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from llmchatbot.config import DatabaseSettings, Duration
from llmchatbot.database.address import Address
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.database.pool import Database, connect, constraint_of, is_unavailable, open_pool, retrying
from llmchatbot.errors import DatabaseUnavailable


@pytest.fixture
async def narrow(database: Address, database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Two connections, short limits."""
    settings = msgspec.structs.replace(
        database_settings, max_connections=2, acquire_timeout=Duration(0.1), statement_timeout=Duration(0.2)
    )
    opened = await open_pool(database, settings)
    yield opened
    await opened.close()


async def test_no_free_connection_in_time_is_unavailable(narrow: Database) -> None:
    async with narrow.acquire(), narrow.acquire():
        assert narrow.in_use == 2
        with pytest.raises(DatabaseUnavailable) as caught:
            await narrow.fetchval("SELECT 1")
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert await narrow.fetchval("SELECT 1") == 1


async def test_a_statement_beyond_its_time_ends_on_the_server_too(narrow: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        await narrow.execute("SELECT pg_sleep(60)")
    assert isinstance(caught.value.__cause__, asyncpg.QueryCanceledError)
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()"
    )
    assert await narrow.fetchval(running, "%pg_sleep%") == 0


@pytest.mark.parametrize("pause", [0, 0.05])
async def test_a_cut_connection_is_unavailable_and_the_next_statement_has_a_new_one(
    narrow: Database, database: Address, pause: float
) -> None:
    async def kill(pid: int) -> None:
        connection = await connect(database)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        await connection.close()

    async def use() -> None:
        async with narrow.transaction() as connection:
            await kill(await connection.fetchval("SELECT pg_backend_pid()"))
            await asyncio.sleep(pause)
            await connection.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await use()
    assert await narrow.fetchval("SELECT 1") == 1


async def test_a_restart_of_postgresql_is_unavailable_then_over(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, extra_settings={"fsync": "off", "shared_buffers": "16MB"})
    address = (await server.start()).to("postgres")
    pool = await open_pool(address, DatabaseSettings(), min_size=2)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    began, refused = time.monotonic(), 0
    async with asyncio.timeout(20):
        while True:
            try:
                assert await pool.fetchval("SELECT 1") == 1
                if refused:
                    break
            except DatabaseUnavailable:
                refused += 1
                await asyncio.sleep(0.02)
    assert time.monotonic() - began < 10
    await pool.close()
    await server.stop()


async def test_a_closed_pool_is_unavailable(database: Address, database_settings: DatabaseSettings) -> None:
    pool = await open_pool(database, database_settings)
    await pool.close()
    with pytest.raises(DatabaseUnavailable):
        await pool.fetchval("SELECT 1")


async def test_closing_does_not_wait_for_ever_for_a_connection_in_use(
    database: Address, database_settings: DatabaseSettings
) -> None:
    pool = await open_pool(database, database_settings)

    async def use() -> None:
        async with pool.acquire() as connection:
            await pool.close(timeout=0.05)
            await connection.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await use()


async def test_a_transaction_that_raises_leaves_nothing(db: Database) -> None:
    async def use() -> None:
        async with db.transaction() as connection:
            await connection.execute("CREATE TABLE half (id int)")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await use()
    assert await db.fetchval("SELECT to_regclass('half')") is None


async def test_verdicts_pass_with_the_name_of_the_rule(db: Database) -> None:
    await db.execute(
        "CREATE TABLE few (id int CONSTRAINT few_only_once UNIQUE, n int CONSTRAINT few_positive CHECK (n > 0))"
    )
    await db.executemany("INSERT INTO few VALUES ($1, $2)", [(1, 1), (2, 1)])
    with pytest.raises(asyncpg.UniqueViolationError) as twice:
        await db.execute("INSERT INTO few VALUES (1, 1)")
    assert constraint_of(twice.value) == "few_only_once"
    with pytest.raises(asyncpg.CheckViolationError) as negative:
        await db.execute("INSERT INTO few VALUES (3, -1)")
    assert constraint_of(negative.value) == "few_positive"
    with pytest.raises(asyncpg.UndefinedTableError) as unknown:
        await db.execute("SELECT * FROM nothing")
    assert constraint_of(unknown.value) == ""


async def test_wrong_use_of_the_library_is_our_mistake_and_not_an_outage(db: Database) -> None:
    async with db.acquire() as connection:
        pass
    with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
        await connection.fetchval("SELECT 1")
    with pytest.raises(asyncpg.DataError):
        await db.fetchval("SELECT $1::int", "no number")


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DiskFullError("disk"),
        asyncpg.TooManyConnectionsError("many"),
        asyncpg.CannotConnectNowError("starting"),
        asyncpg.AdminShutdownError("stopping"),
        asyncpg.ReadOnlySQLTransactionError("standby"),
        asyncpg.InternalClientError("state"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_what_waiting_may_cure(error: Exception) -> None:
    assert is_unavailable(error)


async def test_json_comes_back_as_it_went_and_time_is_utc(db: Database) -> None:
    value = {"text": "naïve ☃ \\u0041", "list": [1, None, True, 1.5], "nested": {"a": {}}}
    assert await db.fetchval("SELECT $1::jsonb", value) == value
    assert await db.fetchval("SELECT $1::jsonb ->> 'text'", value) == value["text"]
    assert await db.fetchval("SHOW timezone") == "UTC"


async def test_victims_of_a_deadlock_are_run_again(db: Database) -> None:
    await db.execute("CREATE TABLE two (id int PRIMARY KEY, n int); INSERT INTO two VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)
    survived = asyncio.Event()
    tries: list[int] = []

    async def add(first: int, second: int) -> None:
        if len(tries) == 2:
            # Or the victim may take its row again before the other one has woken, and be the next victim.
            await survived.wait()
        async with db.transaction() as connection:
            # Only one of them looks for a deadlock: when both do at the same moment, both are its victims.
            await connection.execute(f"SET LOCAL deadlock_timeout = '{1 if first == 1 else 30}s'")
            tries.append(first)
            await connection.execute("UPDATE two SET n = n + 1 WHERE id = $1", first)
            if len(tries) <= 2:
                await both.wait()
            await connection.execute("UPDATE two SET n = n + 1 WHERE id = $1", second)
        survived.set()

    await asyncio.gather(retrying(lambda: add(1, 2)), retrying(lambda: add(2, 1)))
    assert [row["n"] for row in await db.fetch("SELECT n FROM two")] == [2, 2]
    assert len(tries) == 3


async def test_a_transaction_that_never_began_does_not_spoil_its_connection(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A BEGIN that is cancelled leaves nothing open in the server, and a transaction in the client's books."""
    execute = asyncpg.Connection.execute

    async def cancelled(self: Any, query: str, *arguments: Any, **others: Any) -> str:
        if query.startswith("BEGIN"):
            raise asyncio.CancelledError
        return await execute(self, query, *arguments, **others)

    monkeypatch.setattr(asyncpg.Connection, "execute", cancelled)
    with pytest.raises(asyncio.CancelledError):
        async with db.transaction():
            pass
    monkeypatch.undo()
    async with db.transaction() as transaction:
        assert await transaction.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("single", [True, False])
async def test_a_cancellation_stays_one_while_the_server_says_nothing(db: Database, single: bool) -> None:
    """It became DatabaseUnavailable, which is waited out: the model was asked for an answer that was stopped."""

    async def use() -> None:
        async with db.acquire() as connection:
            await connection.fetchval("SELECT pg_sleep(60)")

    async def pid_of_it() -> int:
        query = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND datname = current_database()"
        while (pid := await db.fetchval(query)) is None:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.01)
        return int(pid)

    task = asyncio.create_task(db.fetchval("SELECT pg_sleep(60)") if single else use())
    async with asyncio.timeout(5):
        pid = await pid_of_it()
    os.kill(pid, signal.SIGSTOP)
    try:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await db.fetchval("SELECT 1") == 1
    assert db.in_use == 0


async def test_a_password_never_stands_in_a_log_or_a_traceback() -> None:
    address = Address(host="db.example", password="s3cret-word")
    assert "s3cret" not in f"{address!r} {address}"
