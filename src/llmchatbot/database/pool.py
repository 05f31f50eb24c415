"""Connections: a bounded pool, and the one place where a lost, full or silent database becomes DatabaseUnavailable.

A pooled connection carries no session state: no LISTEN, no SET without LOCAL, no session-level advisory lock. That is
why it needs no reset query (one round trip for every use). `connect` opens a connection of one's own for such things.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from llmchatbot.config import DatabaseSettings
from llmchatbot.database.address import Address
from llmchatbot.errors import DatabaseUnavailable

# Whatever can run statements: one of the pool's or one's own. In quotes, because only the stubs are generic.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
T = TypeVar("T")

logger = logging.getLogger(__name__)

# Of the time that a statement may take, as whoever asked feels it. The server's own limit should speak first: it frees
# the connection, the client's only gives up on it; a server that says nothing at all leaves nobody waiting longer.
_SERVER_SHARE, _CLIENT_SHARE = 0.8, 0.9
# To learn that a statement was cancelled; then the connection is cut off.
_RELEASE_SECONDS = 0.3
_IDLE_IN_TRANSACTION = 30.0

# SQLSTATE classes, https://www.postgresql.org/docs/current/errcodes-appendix.html: 08 connection, 28 authorization,
# 3D no such database, 53 disk full and the like, 57 shut down, statement timeout, 58 system error.
_UNAVAILABLE_CLASSES = ("08", "28", "3D", "53", "57", "58")
_UNAVAILABLE_STATES = {
    "25006",  # read only: a failover is under way
    "25P03",  # idle in transaction
}


class _Translation:
    # A class, because every statement passes it: a generator costs four times as much.
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and is_unavailable(error):
            logger.info("event=database_unavailable error=%s", type(error).__name__)
            raise DatabaseUnavailable from error


_TRANSLATION = _Translation()


def translate() -> _Translation:
    """Turn what says "no database right now" into DatabaseUnavailable; let verdicts about the statement pass."""
    return _TRANSLATION


def is_unavailable(error: BaseException) -> bool:
    """Whether waiting may help. TimeoutError is an OSError."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE_STATES
    if isinstance(error, asyncpg.InterfaceError):
        # One class for "the pool is closing", "connection is closed" and for wrong use of the library. A connection
        # lost while it is held "has been released back to the pool": nobody else releases inside `acquire`.
        return any(words in str(error) for words in ("closed", "closing", "released back to the pool"))
    return isinstance(error, OSError | asyncpg.InternalClientError)


def constraint_of(error: asyncpg.PostgresError) -> str:
    """Name of the constraint that refused the row, empty if none did."""
    return str(getattr(error, "constraint_name", None) or "")


async def retrying(operation: Callable[[], Awaitable[T]], *, attempts: int = 3) -> T:
    """Run a whole transaction again when PostgreSQL made it the victim of a deadlock or a serialization conflict."""
    for _ in range(attempts - 1):
        try:
            return await operation()
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
            logger.info("event=transaction_retried error=%s", type(error).__name__)
            await asyncio.sleep(0)
    return await operation()


class _Stateless(asyncpg.Connection):
    async def reset(self, *, timeout: float | None = None) -> None:
        """Called when the pool gets it back. Where no transaction was left open there is nothing to reset."""
        # The second question is asyncpg's own: a BEGIN that was cancelled leaves a transaction behind that never began.
        if self.is_in_transaction() or getattr(self, "_top_xact", None) is not None:
            await super().reset(timeout=timeout)

    def get_reset_query(self) -> str:
        return ""


async def _set_codecs(connection: Connection) -> None:
    # Binary jsonb is a version byte and the text.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda data: msgspec.json.decode(data[1:]),
    )


async def connect(
    address: Address,
    *,
    application_name: str = "llmchatbot",
    timeout: float = 5.0,
    statement_timeout: float = 0.0,
) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of one's own, e.g. for LISTEN. Raises what asyncpg raises: see `translate`. Zero: no timeout."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        **address.connect_arguments(),
        timeout=timeout,
        command_timeout=statement_timeout * _CLIENT_SHARE or None,
        server_settings=_server_settings(application_name, statement_timeout),
    )
    await _set_codecs(connection)
    return connection


def _server_settings(application_name: str, statement_timeout: float) -> dict[str, str]:
    return {
        "application_name": application_name,
        "statement_timeout": str(round(statement_timeout * _SERVER_SHARE * 1000)),
        "idle_in_transaction_session_timeout": str(round(_IDLE_IN_TRANSACTION * 1000)),
        "timezone": "UTC",
        "jit": "off",
    }


async def open_pool(
    address: Address, settings: DatabaseSettings, *, min_size: int = 0, application_name: str = "llmchatbot"
) -> Database:
    """With `min_size` 0 nothing is connected yet, so this works without a server. Raises DatabaseUnavailable."""
    with translate():
        pool = await asyncpg.create_pool(
            **address.connect_arguments(),
            min_size=min_size,
            max_size=settings.max_connections,
            timeout=settings.acquire_timeout,
            command_timeout=settings.statement_timeout * _CLIENT_SHARE,
            server_settings=_server_settings(application_name, settings.statement_timeout),
            connection_class=_Stateless,
            init=_set_codecs,
        )
    return Database(pool, address=address, max_size=settings.max_connections, acquire_timeout=settings.acquire_timeout)


class Database:
    """What repositories are given. Every method raises DatabaseUnavailable when the database cannot be had in time;
    verdicts such as asyncpg.UniqueViolationError pass through (`constraint_of` tells which rule).
    """

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], *, address: Address, max_size: int, acquire_timeout: float
    ) -> None:
        self._pool = pool
        self._max_size = max_size
        self._acquire_timeout = acquire_timeout
        # How many have a connection, or wait for one.
        self._asked = 0
        self.address = address

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for a few statements: never across a call to a model or a client."""
        with translate():
            connection = await self._take()
            try:
                yield connection
            finally:
                await self._give_back(connection)

    async def _take(self) -> PoolConnectionProxy[asyncpg.Record]:
        self._asked += 1
        # While there are enough for all nobody waits, and a timer would cost as much as the rest. A new connection has
        # a limit of its own.
        enough = self._asked <= self._max_size
        try:
            return await self._pool.acquire(timeout=None if enough else self._acquire_timeout)
        except BaseException:
            self._asked -= 1
            raise

    async def _give_back(self, connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        """Never in place of what ended the use of the connection: a cancellation above all must go on as one."""
        try:
            await self._pool.release(connection, timeout=_RELEASE_SECONDS)
        except TimeoutError:
            # asyncpg has cut the connection off by now.
            logger.info("event=release_timeout")
        finally:
            self._asked -= 1

    async def _once(self, method: str, query: str, arguments: Sequence[Any]) -> Any:
        """A connection for one statement."""
        with translate():
            connection = await self._take()
            try:
                return await getattr(connection, method)(query, *arguments)
            finally:
                await self._give_back(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Committed on leaving, rolled back on an exception."""
        async with self.acquire() as connection, connection.transaction():
            yield connection

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        records: list[asyncpg.Record] = await self._once("fetch", query, arguments)
        return records

    async def fetchrow(self, query: str, *arguments: Any) -> asyncpg.Record | None:
        record: asyncpg.Record | None = await self._once("fetchrow", query, arguments)
        return record

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        return await self._once("fetchval", query, arguments)

    async def execute(self, query: str, *arguments: Any) -> str:
        """Returns the command tag, e.g. `UPDATE 1`."""
        tag: str = await self._once("execute", query, arguments)
        return tag

    async def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        async with self.acquire() as connection:
            await connection.executemany(query, rows)

    @property
    def in_use(self) -> int:
        """Connections handed out right now."""
        return self._pool.get_size() - self._pool.get_idle_size()

    @property
    def size(self) -> int:
        """Open connections."""
        return self._pool.get_size()

    async def close(self, timeout: float = 5.0) -> None:
        """Wait for connections in use, then cut them off."""
        try:
            async with asyncio.timeout(timeout):
                await self._pool.close()
        except TimeoutError:
            logger.warning("event=pool_close_timeout")
            self._pool.terminate()
