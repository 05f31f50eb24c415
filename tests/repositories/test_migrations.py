"""The schema: applied once by any number of processes, never by halves, never by an older program."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest

from llmchatbot.database import migrations
from llmchatbot.database.address import Address
from llmchatbot.database.creation import prepare
from llmchatbot.database.migrations import Migration, migrate, schema_state
from llmchatbot.database.pool import Database, connect
from llmchatbot.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import PostgresServer


@pytest.fixture
async def empty(postgres: PostgresServer) -> AsyncIterator[Address]:
    """A database without any table."""
    address = await postgres.create(template="template0")
    yield address
    await postgres.drop(address.database)


async def test_every_file_is_applied_and_known(db: Database) -> None:
    files = migrations.load()
    rows = await db.fetch("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    assert [(row["version"], row["name"], row["checksum"]) for row in rows] == [
        (file.version, file.name, file.checksum) for file in files
    ]
    async with db.acquire() as connection:
        assert await schema_state(connection) == (len(files), len(files))


async def test_eight_processes_at_once_make_one_schema(postgres: PostgresServer) -> None:
    address = postgres.address.to('eight at "once"')
    try:
        await asyncio.gather(*(prepare(address) for _ in range(8)))
        connection = await connect(address)
        assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == len(migrations.load())
        await connection.close()
    finally:
        await postgres.drop(address.database)


async def test_a_second_start_changes_nothing(empty: Address) -> None:
    await prepare(empty)
    connection = await connect(empty)
    before = await connection.fetch("SELECT * FROM schema_migrations")
    await prepare(empty)
    assert await connection.fetch("SELECT * FROM schema_migrations") == before
    assert await migrate(connection) == 0
    await connection.close()


async def test_a_newer_schema_is_refused(empty: Address) -> None:
    await prepare(empty)
    connection = await connect(empty)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum)"
        " SELECT max(version) + 1, 'future', 'x' FROM schema_migrations"
    )
    with pytest.raises(StartupError, match="newer release has used this database"):
        await migrate(connection)
    await connection.close()


async def test_a_changed_file_is_refused(empty: Address) -> None:
    await prepare(empty)
    connection = await connect(empty)
    await connection.execute("UPDATE schema_migrations SET checksum = 'another' WHERE version = 1")
    with pytest.raises(StartupError, match=r"another text of 0001_initial\.sql"):
        await migrate(connection)
    await connection.close()


async def test_a_failing_file_leaves_nothing_behind_and_the_files_before_it_stay(empty: Address) -> None:
    connection = await connect(empty)
    files = [
        Migration(version=1, name="good", sql="CREATE TABLE first (id int)"),
        Migration(version=2, name="bad", sql="CREATE TABLE second (id int); SELECT 1 / 0"),
    ]
    with pytest.raises(StartupError, match=r"0002_bad\.sql failed and left nothing behind"):
        await migrate(connection, files)
    assert await connection.fetchval("SELECT to_regclass('first') IS NOT NULL AND to_regclass('second') IS NULL")
    assert await connection.fetchval("SELECT max(version) FROM schema_migrations") == 1
    await connection.close()


async def test_the_table_of_another_migration_tool_is_left_alone(empty: Address) -> None:
    connection = await connect(empty)
    await connection.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    with pytest.raises(StartupError, match="belongs to another program"):
        await migrate(connection)
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == 0
    await connection.close()


async def test_a_role_that_may_not_make_tables_is_told_what_to_type(postgres: PostgresServer, empty: Address) -> None:
    await postgres.administrate('CREATE ROLE "no maker" LOGIN')
    try:
        with pytest.raises(StartupError, match=f'ALTER DATABASE "{empty.database}" OWNER TO "no maker"'):
            await prepare(Address(host=empty.host, user="no maker", database=empty.database))
    finally:
        await postgres.administrate('DROP ROLE "no maker"')


async def test_a_database_in_another_encoding_is_refused(postgres: PostgresServer) -> None:
    await postgres.administrate(
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    )
    try:
        with pytest.raises(StartupError, match="encoding LATIN1; UTF8 is needed"):
            await prepare(postgres.address.to("latin"))
    finally:
        await postgres.drop("latin")


async def test_line_ends_of_a_checkout_do_not_change_a_checksum() -> None:
    unix, windows = Migration(version=1, name="a", sql="a;\nb;\n"), Migration(version=1, name="a", sql="a;\r\nb;\r\n")
    assert unix.checksum == windows.checksum


async def test_a_constraint_names_itself(db: Database) -> None:
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await db.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (1, 'again', 'x')")
    assert caught.value.constraint_name == "schema_migrations_pkey"


async def test_migration_3_makes_the_search_vectors_that_the_index_holds_already(db: Database) -> None:
    """Or rows that were indexed before would not be found, and nobody would see why."""
    first = migrations.load()[0].sql
    begin = first.index("CREATE FUNCTION search_vector")
    old = first[begin : first.index(";", first.index("unnest(search_terms", begin)) + 1]
    rng = random.Random(3)
    alphabet = "abcXYZ09 \n\t'\"\\:*&|!<>-_.@/+\x01\x02\u00a0éßЖ日本語ไทย한글😀\u0301"
    texts = ["", " ", "x" * 64, "x" * 65, "x" * 3000, "a b", "日" * 70, f"{'y' * 66} z https://e.xample/{'p' * 90}?q=1"]
    texts += ["".join(rng.choices(alphabet, k=rng.randrange(200))) for _ in range(300)]
    async with db.transaction() as transaction:
        await transaction.execute(old.replace("search_vector", "old_vector", 1))
        different = await transaction.fetch(
            "SELECT content FROM unnest($1::text[]) AS t (content) "
            "WHERE search_vector($2, content) IS DISTINCT FROM old_vector($2, content)",
            texts,
            UUID("01a21984-db19-71e9-8236-eaab830b3333"),
        )
    assert not different


async def test_search_indexes_can_be_made_again_without_a_search_path(db: Database) -> None:
    """As `pg_restore` does, and REINDEX from PostgreSQL 17 on: a function that must look for another breaks both."""
    user_id = UUID("01a21984-db19-71e9-8236-eaab830b3333")
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, 'a@x.org', 'u')", user_id)
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $1, 'words of a title')", user_id)
    await db.execute("REINDEX TABLE chats")
    async with db.transaction() as transaction:
        await transaction.execute("SET LOCAL search_path = ''")
        await transaction.execute("CREATE INDEX again ON public.chats USING gin (public.search_vector(user_id, title))")
