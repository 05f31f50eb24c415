"""The database: the server, its schema, and what the role may do."""

from __future__ import annotations

import asyncio

import asyncpg

from llmchatbot.config import Settings
from llmchatbot.database.address import Address
from llmchatbot.database.binaries import find_binaries, identity_for
from llmchatbot.database.cluster import ROLE, major_of, socket_of
from llmchatbot.database.creation import connected
from llmchatbot.database.diagnosis import missing_database, quoted
from llmchatbot.database.migrations import check, schema_state
from llmchatbot.database.pool import Connection
from llmchatbot.doctor.rows import Row, failure
from llmchatbot.errors import DatabaseUnavailable, StartupError

# Beside the pool, each process keeps a few connections of its own: listener, writer, leases.
_OWN_CONNECTIONS = 4


async def examine_embedded(settings: Settings) -> list[Row]:
    cluster = settings.server.data_dir.expanduser().absolute() / "postgres"
    if running := await asyncio.to_thread(socket_of, cluster):
        folder, port = running
        address = Address(host=folder, port=port, user=ROLE, database=settings.database.name, sslmode="disable")
        return await _database(address, settings, "PostgreSQL (embedded)")
    try:
        major = await asyncio.to_thread(major_of, cluster)
        binaries = await asyncio.to_thread(find_binaries, settings.database.bin_dir, major)
        await asyncio.to_thread(identity_for, cluster, binaries)
    except StartupError as error:
        return [failure("PostgreSQL (embedded)", error)]
    state = "started with the program" if major else "made and started at the first start"
    return [Row("ok", "PostgreSQL (embedded)", f"{binaries.major} from {binaries.folder}, {state}")]


async def examine_external(settings: Settings) -> list[Row]:
    return await _database(Address.of(settings.database), settings, "PostgreSQL")


async def _database(address: Address, settings: Settings, subject: str) -> list[Row]:
    try:
        async with connected(address) as connection:
            return [
                await _server_row(connection, address, subject),
                await _schema_row(connection),
                await _role_row(connection, address, settings),
            ]
    except asyncpg.InvalidCatalogNameError:
        return [await _missing_database_row(address)]
    except (StartupError, DatabaseUnavailable) as error:
        return [failure(subject, error)]


async def _server_row(connection: Connection, address: Address, subject: str) -> Row:
    version = await connection.fetchval("SHOW server_version")
    encrypted = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    detail = f"{address}, version {version}, {'TLS' if encrypted else 'not encrypted'}"
    if encrypted or address.local or address.host in {"127.0.0.1", "::1", "localhost"}:
        return Row("ok", subject, detail)
    return Row("warn", subject, detail, "DB_SSLMODE=require (or verify-full), and ssl = on in the server")


async def _schema_row(connection: Connection) -> Row:
    try:
        await check(connection)
        current, expected = await schema_state(connection)
    except StartupError as error:
        return failure("Schema", error)
    if current < expected:
        return Row("ok", "Schema", f"version {current} of {expected}; the next start brings it up to date")
    return Row("ok", "Schema", f"version {current}, as this program expects")


async def _role_row(connection: Connection, address: Address, settings: Settings) -> Row:
    [may] = await connection.fetch(
        "SELECT has_schema_privilege('public', 'CREATE') AS make_tables, rolsuper AS super,"
        " current_setting('max_connections')::int AS slots FROM pg_roles WHERE rolname = current_user"
    )
    role, database = quoted(address.user), quoted(address.database)
    if not may["make_tables"]:
        return Row("fail", "Role", f"{role} may not make tables", f"ALTER DATABASE {database} OWNER TO {role};")
    wanted = settings.server.workers * (settings.database.max_connections + _OWN_CONNECTIONS)
    if wanted > may["slots"] and not settings.database.embedded:
        return Row(
            "warn",
            "Role",
            f"{settings.server.workers} processes may want {wanted} connections, the server has {may['slots']}",
            "DB_MAX_OPEN_CONNS=<less>, or raise max_connections in the server",
        )
    if may["super"] and not settings.database.embedded:
        return Row("warn", "Role", f"{role} is a superuser, more than needed", f"ALTER ROLE {role} NOSUPERUSER;")
    return Row("ok", "Role", f"{role} may make tables")


async def _missing_database_row(address: Address) -> Row:
    for name in ("postgres", "template1"):
        try:
            async with connected(address.to(name)) as connection:
                if await connection.fetchval(
                    "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
                ):
                    return Row("ok", "Database", f"{quoted(address.database)} is created at the first start")
                break
        except (asyncpg.InvalidCatalogNameError, StartupError, DatabaseUnavailable):
            continue
    return failure("Database", StartupError(missing_database(address)))
