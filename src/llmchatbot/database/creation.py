"""From an address to a database that is ready: connect, create it when missing, migrate.

Every way in which that fails for good is a StartupError whose sentence says what to type; what may pass by itself
(refused, unreachable, starting up, full) is DatabaseUnavailable, so that the program can start first and wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg

from llmchatbot.database import migrations
from llmchatbot.database.address import Address
from llmchatbot.database.diagnosis import CONNECT_TIMEOUT, explain, missing_database, quoted
from llmchatbot.database.pool import Connection, connect, is_unavailable
from llmchatbot.errors import DatabaseUnavailable, StartupError

logger = logging.getLogger(__name__)

OLDEST_VERSION = 15
# Every cluster has them; the first may have been dropped, the second is what CREATE DATABASE copies.
_MAINTENANCE_DATABASES = ("postgres", "template1")


async def prepare(address: Address) -> None:
    """Create the database when it is missing, and migrate it. Any number of processes may do this at once.

    Raises StartupError when somebody has to change something, DatabaseUnavailable when waiting may help.
    """
    try:
        async with connected(address) as connection:
            await _migrate(connection, address)
    except asyncpg.InvalidCatalogNameError:
        await _create(address)
        async with connected(address) as connection:
            await _migrate(connection, address)


async def wait_and_prepare(
    address: Address,
    *,
    give_up_after: float = math.inf,
    longest_pause: float = 1.0,
    on_wait: Callable[[DatabaseUnavailable], None] | None = None,
) -> None:
    """`prepare`, again and again while the server cannot be had, for `give_up_after` seconds. Raises StartupError.

    `on_wait` is told about the first failure, so that a person at a terminal learns what is being waited for.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + give_up_after
    pause = 0.1
    told = False
    while True:
        try:
            await prepare(address)
        except DatabaseUnavailable as error:
            if loop.time() + pause > deadline:
                raise StartupError(str(error)) from error
            if not told:
                told = True
                logger.warning(
                    "event=waiting_for_database address=%s detail=%s", address, str(error).partition("\n")[0]
                )
                if on_wait is not None:
                    on_wait(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest_pause)
        else:
            return


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Connection]:
    """A plain connection, its failures explained. Raises StartupError, DatabaseUnavailable, and
    asyncpg.InvalidCatalogNameError when only the database is missing.
    """
    try:
        connection = await connect(address, timeout=CONNECT_TIMEOUT)
    except asyncpg.InvalidCatalogNameError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise explain(error, address) from error
    try:
        version = connection.get_server_version()
        if version.major < OLDEST_VERSION:
            raise StartupError(
                f"The server at {address.host} is PostgreSQL {version.major}; {OLDEST_VERSION} or newer is needed.\n"
                "Upgrade it, or set DB_HOST to a newer one, or leave DB_HOST empty for the embedded one."
            )
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if is_unavailable(error):
            raise explain(error, address) from error
        raise
    finally:
        connection.terminate() if connection.is_closed() else await _close(connection)


async def _close(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    try:
        await connection.close(timeout=2)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        logger.info("event=close_failed error=%s", type(error).__name__)


async def _create(address: Address) -> None:
    """Raises StartupError when the role may not, or no maintenance database lets us in."""
    for name in _MAINTENANCE_DATABASES:
        try:
            async with connected(address.to(name)) as connection:
                await _create_through(connection, address)
                return
        except asyncpg.InvalidCatalogNameError:
            continue
        except StartupError as error:
            if not isinstance(
                error.__cause__, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InsufficientPrivilegeError
            ):
                raise
            logger.info("event=maintenance_database_closed name=%s", name)
    raise StartupError(missing_database(address))


async def _create_through(connection: Connection, address: Address) -> None:
    # The catalogue knows no parameters here; the quoting is the catalogue's own (fault 7 of the first backend).
    name = await connection.fetchval("SELECT quote_ident($1)", address.database)
    try:
        await connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        logger.info("event=database_created name=%s", address.database)
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        logger.info("event=database_created_elsewhere name=%s", address.database)
    except asyncpg.InsufficientPrivilegeError as error:
        raise StartupError(missing_database(address)) from error


async def _migrate(connection: Connection, address: Address) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartupError(
            f"The database {quoted(address.database)} has the encoding {encoding}; UTF8 is needed.\n"
            "Set DB_NAME to another database; it is created in UTF8."
        )
    try:
        await migrations.migrate(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        database, role = quoted(address.database), quoted(address.user)
        raise StartupError(
            f"The role {role} may not make tables in the database {database}: {error}.\n"
            f"As a superuser: ALTER DATABASE {database} OWNER TO {role};"
        ) from error
