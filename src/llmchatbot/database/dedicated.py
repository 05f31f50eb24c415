"""A connection kept by one owner for one kind of statement, opened again when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from llmchatbot.database.address import Address
from llmchatbot.database.pool import connect, translate
from llmchatbot.errors import DatabaseUnavailable


class DedicatedConnection:
    """An `Executor` over one connection with session settings of its own; its owner uses it one call at a time.

    Every method raises DatabaseUnavailable when the connection is lost; the next call opens a new one.
    """

    def __init__(
        self,
        address: Address,
        *,
        application_name: str,
        statement_timeout: float,
        session: dict[str, str] | None = None,
    ) -> None:
        """`statement_timeout` in seconds; `session` are run-time parameters such as `synchronous_commit`."""
        self._address = address
        self._application_name = application_name
        self._statement_timeout = statement_timeout
        self._session = session or {}
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        # How many connections there have been.
        self._opened = 0
        self._turn = asyncio.Lock()

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        async with self._use() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        async with self._use() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        async with self._use() as connection:
            return await connection.fetchval(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        async with self._use() as connection:
            return await connection.execute(query, *args)

    async def execute_on(self, number: int, query: str, *args: Any) -> tuple[str, int]:
        """On connection `number` only, 0 for whichever there is; the tag, and the number for the next time.

        For whoever must know that nothing lies between two statements: a server that crashed has forgotten the last of
        what it acknowledged to a session without `synchronous_commit`.
        """
        async with self._use() as connection:
            if number not in {0, self._opened}:
                raise DatabaseUnavailable
            return await connection.execute(query, *args), self._opened

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        async with self._turn:
            with translate():
                connection = await self._open()
                try:
                    yield connection
                except TimeoutError:
                    # The server says nothing. It may never do so again on this connection, whose other end is gone.
                    connection.terminate()
                    self._connection = None
                    raise

    async def _open(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is not None and self._connection.is_closed():
            # Lost while nobody used it: said once, to whoever comes first.
            self._connection = None
            raise DatabaseUnavailable
        if self._connection is None:
            connection = await connect(
                self._address, application_name=self._application_name, statement_timeout=self._statement_timeout
            )
            for name, value in self._session.items():
                await connection.execute("SELECT set_config($1, $2, false)", name, value)
            self._connection = connection
            self._opened += 1
        return self._connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with translate():
                await connection.close(timeout=2)
