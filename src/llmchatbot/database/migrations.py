"""The schema, one numbered file after the other: `migrations/NNNN_name.sql`, each in one transaction with its record.

Files are never changed once released, only added; a checksum in the database notices. Any number of processes may
migrate at once: each file is applied under a transaction-level advisory lock by whoever comes first.
"""

from __future__ import annotations

import hashlib
import logging
import re
from importlib import resources

import asyncpg
import msgspec

from llmchatbot.database.pool import Connection, is_unavailable
from llmchatbot.errors import StartupError

logger = logging.getLogger(__name__)

# Any constant will do; this one spells "llmchat" and keeps clear of locks that other programs take.
ADVISORY_LOCK = int.from_bytes(b"llmchat", "big")
_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Of the text with Unix line ends: a checkout on another system is the same migration."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()

    @property
    def file(self) -> str:
        return f"{self.version:04}_{self.name}.sql"


def load() -> list[Migration]:
    """All migrations of this program in order. Their numbers have no gap, or one was lost in packaging."""
    folder = resources.files("llmchatbot.database").joinpath("migrations")
    migrations = [
        Migration(version=int(match[1]), name=match[2], sql=entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if (match := _FILE_NAME.fullmatch(entry.name))
    ]
    migrations.sort(key=lambda migration: migration.version)
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)) or not migrations:
        raise StartupError("The program's migrations are not complete. Install it again.")
    return migrations


async def schema_state(connection: Connection) -> tuple[int, int]:
    """(version of the database, version this program expects); zero for an empty database."""
    return len(await _applied(connection)), len(load())


async def check(connection: Connection) -> None:
    """Raises StartupError when `migrate` would refuse this database."""
    _compare(await _applied(connection), load())


async def migrate(connection: Connection, migrations: list[Migration] | None = None) -> int:
    """Bring the database up to date; returns how many files were applied here.

    Raises StartupError when the database is newer than the program, when a file was changed after it had been applied,
    or when a file fails (its transaction leaves nothing behind). A lost connection and a missing right pass
    as asyncpg's.
    """
    migrations = load() if migrations is None else migrations
    _compare(await _applied(connection), migrations)
    count = 0
    while await _apply_next(connection, migrations):
        count += 1
    return count


async def _apply_next(connection: Connection, migrations: list[Migration]) -> bool:
    if len(await _applied(connection)) >= len(migrations):
        return False
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
        # Before anything is looked up: the catalogue cache of this session still says what was true before the wait.
        await connection.execute(_TABLE)
        applied = await _rows(connection)
        _compare(applied, migrations)
        if len(applied) >= len(migrations):
            return False
        migration = migrations[len(applied)]
        try:
            await connection.execute(migration.sql)
        except asyncpg.PostgresError as error:
            if is_unavailable(error) or isinstance(error, asyncpg.InsufficientPrivilegeError):
                raise
            raise StartupError(f"The migration {migration.file} failed and left nothing behind: {error}") from error
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
    logger.info("event=migration_applied file=%s", migration.file)
    return True


async def _applied(connection: Connection) -> list[asyncpg.Record]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return []
    return await _rows(connection)


async def _rows(connection: Connection) -> list[asyncpg.Record]:
    try:
        return await connection.fetch("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    except asyncpg.UndefinedColumnError as error:
        raise StartupError(
            "The table schema_migrations of this database belongs to another program.\n"
            "Set DB_NAME to another database; it is created where the role may."
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StartupError(
            "The tables of this database belong to another role, the one that made them.\n"
            "Set DB_USER to that role, or as a superuser in this database: REASSIGN OWNED BY <that role> TO <our role>;"
        ) from error


def _compare(applied: list[asyncpg.Record], migrations: list[Migration]) -> None:
    if len(applied) > len(migrations):
        raise StartupError(
            f"The database's schema has version {len(applied)}, this program knows {len(migrations)} at the most.\n"
            "A newer release has used this database: start that release, or restore a backup made before it."
        )
    for row, migration in zip(applied, migrations, strict=False):
        if (row["version"], row["checksum"]) != (migration.version, migration.checksum):
            raise StartupError(
                f"The database was migrated with another text of {migration.file} "
                f"(there it is {row['version']:04}_{row['name']}.sql).\n"
                "Released migrations never change: start the release that made this database, or use another DB_NAME."
            )
