"""Fixtures that every folder shares: a real PostgreSQL, and for each test a database of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from llmchatbot.config import DatabaseSettings
from llmchatbot.database.address import Address
from llmchatbot.database.creation import prepare
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.database.pool import Database, open_pool

TEMPLATE = "template_migrated"
# Only tests may lose data with the power: they have none.
QUICK_AND_VOLATILE = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "48MB", "autovacuum": "off"}


class PostgresServer:
    """One PostgreSQL for a test session, with a migrated template. `address` leads to its `postgres` database."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._numbers = itertools.count()

    async def create(self, template: str = TEMPLATE) -> Address:
        """A new database: the migrated schema, or with `template0` an empty one."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        await self.administrate(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY wal_log')
        return self.address.to(name)

    async def drop(self, database: str) -> None:
        quoted = '"' + database.replace('"', '""') + '"'
        await self.administrate(f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")

    async def administrate(self, statement: str) -> None:
        """One statement as the superuser."""
        connection = await asyncpg.connect(**self.address.connect_arguments())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def run_apart(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """For session fixtures: a loop in a thread of its own leaves the test's loop alone."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of this test process (each xdist worker has its own), gone with it even after `kill -9`."""
    with tempfile.TemporaryDirectory(prefix="llmchatbot-test-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder), max_connections=200, extra_settings=QUICK_AND_VOLATILE)
        address = server.start_blocking()
        try:
            run_apart(prepare(address.to(TEMPLATE)))
            yield PostgresServer(address.to("postgres"))
        finally:
            server.stop_blocking()


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Address]:
    """A fresh database with the whole schema; whatever a test commits is gone after it."""
    address = await postgres.create()
    yield address
    await postgres.drop(address.database)


@pytest.fixture
def database_settings(database: Address) -> DatabaseSettings:
    """Settings that lead to `database` as to an external server."""
    return database.applied_to(DatabaseSettings())


@pytest.fixture
async def db(database: Address, database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """The opened pool on `database`."""
    opened = await open_pool(database, msgspec.structs.replace(database_settings, max_connections=10))
    yield opened
    await opened.close()
