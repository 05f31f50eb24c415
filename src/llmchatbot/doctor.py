"""`llmchatbot doctor`: is everything this program needs there, and if not, what to type. It changes nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal

import aiohttp
import asyncpg
import msgspec
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from llmchatbot import SERVICE, config
from llmchatbot.config import Settings
from llmchatbot.database.address import Address
from llmchatbot.database.binaries import find_binaries, identity_for
from llmchatbot.database.cluster import ROLE, major_of, socket_of
from llmchatbot.database.creation import connected
from llmchatbot.database.diagnosis import missing_database, quoted
from llmchatbot.database.migrations import check, schema_state
from llmchatbot.database.pool import Connection
from llmchatbot.errors import DatabaseUnavailable, ModelError, StartupError
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.llm_service.discovery import find_local_model
from llmchatbot.llm_service.engine import require_installed
from llmchatbot.llm_service.model_file import inspect

# What is asked of the models: by public name what is wrong with each, None where nothing is.
Ask = Callable[[ModelGateway], Awaitable[Mapping[str, ModelError | None]]]

_PATIENCE = 3.0
_LITTLE_SPACE = 1 << 30
# Beside the pool, each process keeps a few connections of its own: listener, writer, leases.
_OWN_CONNECTIONS = 4


class Row(msgspec.Struct, frozen=True):
    """One line of the table. `advice` is what to type."""

    status: Literal["ok", "warn", "fail"]
    subject: str
    detail: str
    advice: str = ""


async def run(
    settings: Settings, *, write: Callable[[str], object] = sys.stdout.write, ask: Ask = ModelGateway.examine
) -> int:
    """Print the table; 0 when nothing fails, else 1."""
    rows = await examine(settings, ask=ask)
    write(render(rows))
    return int(any(row.status == "fail" for row in rows))


async def examine(
    settings: Settings, environment: Mapping[str, str] | None = None, *, ask: Ask = ModelGateway.examine
) -> list[Row]:
    """All rows in the order in which a start would meet them. `environment` holds the keys that a models file names."""
    if environment is None:
        environment = config.read_environment()
    parts: list[Callable[[Settings], Awaitable[list[Row]]]] = [
        _settings,
        _data_dir,
        _port,
        _external if not settings.database.embedded else _embedded,
        _redis,
        lambda settings: _model(settings, environment, ask),
    ]
    return [row for examine_part in parts for row in await examine_part(settings)]


def render(rows: list[Row]) -> str:
    width = max(len(row.subject) for row in rows)
    lines = []
    for row in rows:
        first, *more = row.detail.splitlines() or [""]
        lines.append(f"{row.status:<4}  {row.subject:<{width}}  {first}")
        indent = " " * (width + 8)
        lines += [indent + line for line in more]
        lines += [f"{indent}→ {line}" for line in row.advice.splitlines()]
    count = {status: sum(row.status == status for row in rows) for status in ("ok", "warn", "fail")}
    lines.append(f"\n{count['ok']} ok, {count['warn']} warnings, {count['fail']} failures")
    return "\n".join(lines) + "\n"


async def _settings(settings: Settings) -> list[Row]:
    rows = []
    for field in config.fields():
        value = getattr(getattr(settings, field.section), field.attribute)
        if value != field.default:
            rows.append(Row("ok", field.env.name, "(set, not shown)" if field.env.secret else _shown(str(value))))
    if not settings.auth.jwt_secret:
        rows.append(Row("ok", "JWT_SECRET", "made once and kept in DATA_DIR"))
    if not settings.production and settings.server.host not in {"127.0.0.1", "::1", "localhost"}:
        rows.append(
            Row(
                "warn", "ENVIRONMENT", f"development, but reachable at {settings.server.host}", "ENVIRONMENT=production"
            )
        )
    return rows


def _shown(value: str) -> str:
    """Without the user and password that an address may carry."""
    return re.sub(r"//[^/@\s]*@", "//…@", value)


async def _data_dir(settings: Settings) -> list[Row]:
    return await asyncio.to_thread(_examine_folder, settings.server.data_dir.expanduser().absolute())


def _examine_folder(folder: Path) -> list[Row]:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return [
            Row(
                "fail",
                "Data directory",
                f"{folder} cannot be written",
                "DATA_DIR=<a folder of yours>, or start as its owner",
            )
        ]
    free = shutil.disk_usage(nearest).free
    detail = f"{folder} ({'exists' if nearest == folder else 'made at the first start'}, {free >> 20} MB free)"
    if free < _LITTLE_SPACE:
        return [Row("warn", "Data directory", detail, "make room, or DATA_DIR=<a folder on a larger disk>")]
    return [Row("ok", "Data directory", detail)]


async def _port(settings: Settings) -> list[Row]:
    host, port = settings.server.host, settings.server.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return [await _taken_port_row(settings)]
        if error.errno == errno.EACCES:
            return [Row("fail", "Port", f"{port} is for root only", "SERVER_PORT=8080")]
        return [Row("fail", "Port", f"cannot listen on {host}: {error.strerror}", "SERVER_HOST=127.0.0.1")]
    return [Row("ok", "Port", f"{host}:{port} is free")]


async def _taken_port_row(settings: Settings) -> Row:
    """By this program itself, most likely: people ask the doctor while it runs."""
    host, port = settings.server.host, settings.server.port
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 # compared, not listened on
    try:
        _, body = await _answer(f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/health")
    except (aiohttp.ClientError, TimeoutError, ValueError):
        body = b""
    if SERVICE.encode() in body:
        return Row("ok", "Port", f"{host}:{port} is served by this program, which runs already")
    advice = f"SERVER_PORT=<another>, or: ss -ltnp sport = :{port}"
    return Row("fail", "Port", f"{port} is taken by another program", advice)


async def _embedded(settings: Settings) -> list[Row]:
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
        return [_failure("PostgreSQL (embedded)", error)]
    state = "started with the program" if major else "made and started at the first start"
    return [Row("ok", "PostgreSQL (embedded)", f"{binaries.major} from {binaries.folder}, {state}")]


async def _external(settings: Settings) -> list[Row]:
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
        return [_failure(subject, error)]


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
        return _failure("Schema", error)
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
    return _failure("Database", StartupError(missing_database(address)))


async def _redis(settings: Settings) -> list[Row]:
    if not settings.redis.enabled:
        return [Row("ok", "Redis", "not configured; PostgreSQL does its work")]
    where = f"{settings.redis.host}:{settings.redis.port}/{settings.redis.db}"
    client = redis.asyncio.Redis(
        host=settings.redis.host,
        port=settings.redis.port,
        password=settings.redis.password or None,
        db=settings.redis.db,
        socket_connect_timeout=_PATIENCE,
        socket_timeout=_PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            await client.ping()
    except redis.exceptions.AuthenticationError as error:
        return [Row("fail", "Redis", f"{where}: {error}", "REDIS_PASSWORD=<the right one>")]
    except (redis.exceptions.RedisError, OSError) as error:
        detail = f"{where} does not answer: {str(error) or type(error).__name__}"
        return [Row("fail", "Redis", detail, "REDIS_HOST, REDIS_PORT; or leave REDIS_HOST empty")]
    finally:
        await client.aclose()
    return [Row("ok", "Redis", where)]


async def _model(settings: Settings, environment: Mapping[str, str], ask: Ask) -> list[Row]:
    """Every model that is set up is asked for with its key, so that a wrong one is found before a person meets it."""
    try:
        gateway = ModelGateway.from_settings(settings.model, environment)
    except StartupError as error:
        return [_failure("Models", error)]
    try:
        rows = [_model_row(name, error) for name, error in (await ask(gateway)).items()]
        default = Row("ok", "Models", f"of those set up, {gateway.default_model()} answers a chat that names none")
    finally:
        await gateway.aclose()
    if settings.model.service_url:
        rows.insert(0, await _model_service(settings.model.service_url))
    if local := await asyncio.to_thread(_local_model, settings):
        return [*rows, *local]
    if rows:
        return [*rows, default]
    return [
        Row(
            "warn",
            "Models",
            "none is connected; the built-in guide answers from the documentation",
            "LLM_SERVICE_URL=http://localhost:5000, or OPENAI_API_KEY=…; see docs/models.md",
        )
    ]


def _local_model(settings: Settings) -> list[Row]:
    path = find_local_model(settings)
    if path is None:
        return []
    try:
        require_installed()
        found = inspect(path)
    except StartupError as error:
        return [_failure("Local model", error)]
    return [Row("ok", "Local model", f"{found.path} is started with the program and answers first")]


def _model_row(name: str, error: ModelError | None) -> Row:
    if error is None:
        return Row("ok", f"Model {name}", "answers and takes our key")
    return Row("fail", f"Model {name}", f"{error.code}: {error.detail}", f"llmchatbot models test {name}")


async def _model_service(url: str) -> Row:
    subject, health = "Model service", url.rstrip("/") + "/health"
    shown = _shown(url)
    try:
        status, body = await _answer(health)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        detail = f"{shown} does not answer: {str(error) or type(error).__name__}"
        return Row("fail", subject, detail, "start the model service, or LLM_SERVICE_URL=<where it is>")
    if status >= 500:
        return Row("warn", subject, f"{shown} answers {status}", "look into the log of the model service")
    if b'"model_loaded":false' in body.replace(b" ", b""):
        return Row("warn", subject, f"{shown} answers, its model is not loaded yet", "wait, or look into its log")
    return Row("ok", subject, f"{shown} answers" + (f" ({status} on /health)" if status != 200 else ""))


async def _answer(url: str) -> tuple[int, bytes]:
    """Status and beginning of what is served there. Raises ClientError, TimeoutError, or ValueError for no address."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE), trust_env=False) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.content.read(65536)


def _failure(subject: str, error: StartupError | DatabaseUnavailable) -> Row:
    """The first line of our sentences is what is wrong, the others are what to type."""
    detail, _, advice = str(error).partition("\n")
    return Row("fail", subject, detail, advice)
