"""A PostgreSQL that somebody else runs, in the oldest version we promise: each failure says what to type."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from llmchatbot.config import DatabaseSettings
from llmchatbot.database import creation, migrations
from llmchatbot.database.address import Address
from llmchatbot.database.creation import prepare, wait_and_prepare
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.database.pool import connect, open_pool
from llmchatbot.errors import DatabaseUnavailable, StartupError

OLDEST = Path("/usr/lib/postgresql/15/bin")
PASSWORD = "correct horse '\\ battery"
NAME = 'chat "db"; DROP TABLE users --'
INIT_SQL = Path(__file__).parents[2] / "scripts" / "init_db.sql"

# By TCP with a password, as servers are run; 'outsider' is let in only with TLS, which this server does not have.
HBA = """
local all all trust
hostssl all outsider 127.0.0.1/32 scram-sha-256
host all outsider 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""

pytestmark = pytest.mark.skipif(not OLDEST.is_dir(), reason="needs Debian's postgresql-15")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class External:
    """The server, and a superuser on it."""

    def __init__(self, superuser: Address, port: int) -> None:
        self.superuser = superuser
        self.port = port

    def address(self, role: str, database: str, password: str = PASSWORD) -> Address:
        """As the settings of a person name it."""
        return Address.of(
            DatabaseSettings(host="127.0.0.1", port=self.port, user=role, password=password, name=database)
        )

    async def administrate(self, *statements: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(**self.superuser.to(database).connect_arguments())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[External]:
    with tempfile.TemporaryDirectory(prefix="pg15-", ignore_cleanup_errors=True) as name:
        hba, port = Path(name) / "hba.conf", free_port()
        hba.write_text(HBA)
        postgres = EmbeddedPostgres(
            Path(name) / "data",
            bin_dir=str(OLDEST),
            extra_settings={
                "fsync": "off",
                "shared_buffers": "32MB",
                "listen_addresses": "127.0.0.1",
                "port": str(port),
                "hba_file": str(hba),
            },
        )
        address = postgres.start_blocking()
        try:
            yield External(address.to("postgres"), port)
        finally:
            postgres.stop_blocking()


def literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.fixture
async def roles(server: External) -> AsyncIterator[External]:
    """`maker` may create databases, `chat_app_user` may not, `outsider` comes without TLS. All gone afterwards."""
    secret = literal(PASSWORD)
    await server.administrate(
        f"CREATE ROLE maker LOGIN CREATEDB PASSWORD {secret}",
        f"CREATE ROLE chat_app_user_2 LOGIN PASSWORD {secret}",
        f"CREATE ROLE outsider LOGIN PASSWORD {secret}",
    )
    yield server
    connection = await asyncpg.connect(**server.superuser.connect_arguments())
    for row in await connection.fetch(
        "SELECT quote_ident(datname) AS name FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
    ):
        await connection.execute(f"DROP DATABASE {row['name']} WITH (FORCE)")
    await connection.execute("DROP ROLE maker, chat_app_user_2, outsider")
    await connection.close()


async def refusal(address: Address) -> str:
    with pytest.raises(StartupError) as caught:
        await prepare(address)
    said = str(caught.value)
    assert address.password not in said
    return said


async def test_fault_7_the_database_is_created_with_its_name_quoted(roles: External) -> None:
    address = roles.address("maker", NAME)
    await prepare(address)
    connection = await connect(address)
    assert await connection.fetchval("SELECT current_database()") == NAME
    assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    assert await migrations.schema_state(connection) == (len(migrations.load()),) * 2
    await connection.close()
    await prepare(address)


async def test_fault_7_the_template_database_serves_where_postgres_is_closed_or_gone(roles: External) -> None:
    await roles.administrate("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    try:
        await prepare(roles.address("maker", "through_template1"))
    finally:
        await roles.administrate("GRANT CONNECT ON DATABASE postgres TO PUBLIC")


async def test_eight_processes_start_at_once_on_an_empty_server(roles: External) -> None:
    address = roles.address("maker", "raced")
    code = (
        "import asyncio, sys, msgspec; from llmchatbot.database.address import Address;"
        "from llmchatbot.database.creation import prepare;"
        "asyncio.run(prepare(msgspec.json.decode(sys.argv[1], type=Address)))"
    )
    argument = msgspec.json.encode(address).decode()
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, argument, stderr=asyncio.subprocess.PIPE)
        for _ in range(8)
    ]
    ends = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0] * 8, ends
    connection = await connect(address)
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == len(migrations.load())
    await connection.close()


async def test_a_wrong_password_says_so(roles: External) -> None:
    said = await refusal(roles.address("maker", "postgres", password="wrong horse"))
    assert 'refused the password of role "maker"' in said
    assert "DB_PASSWORD" in said


async def test_an_empty_password_says_so(roles: External) -> None:
    with pytest.raises(StartupError, match="DB_PASSWORD"):
        await prepare(roles.address("maker", "postgres", password=""))


async def test_a_missing_role_says_how_to_make_it(roles: External) -> None:
    over_socket = msgspec.structs.replace(roles.superuser, user='no "body"', password="unused")
    said = await refusal(over_socket)
    assert 'no role "no ""body"""' in said
    assert "DB_PASSWORD='…' psql -h" in said
    assert "-v role='no \"body\"'" in said
    assert said.count("scripts/init_db.sql") == 1
    # With passwords a server does not tell a missing role from a wrong password; both remedies are named.
    said = await refusal(roles.address("nobody_here", "postgres"))
    assert "has no such role" in said
    assert "scripts/init_db.sql" in said


async def test_a_role_that_may_not_log_in_says_so(roles: External) -> None:
    await roles.administrate("ALTER ROLE maker NOLOGIN")
    assert 'ALTER ROLE "maker" LOGIN;' in await refusal(roles.address("maker", "postgres"))


async def test_a_missing_database_without_the_right_to_create_it_says_what_to_type_and_that_works(
    roles: External,
) -> None:
    address = roles.address("chat_app_user_2", NAME)
    said = await refusal(address)
    advice = re.search(r"CREATE DATABASE .*?template0;", said)
    assert advice is not None
    await roles.administrate(advice[0])
    await prepare(address)


async def test_a_database_whose_tables_may_not_be_made_says_what_to_type_and_that_works(roles: External) -> None:
    await roles.administrate("CREATE DATABASE foreign_db TEMPLATE template0")
    address = roles.address("chat_app_user_2", "foreign_db")
    said = await refusal(address)
    advice = re.search(r"ALTER DATABASE .*;", said)
    assert advice is not None
    await roles.administrate(advice[0])
    await prepare(address)


async def test_a_database_that_lets_nobody_connect_says_what_to_type_and_that_works(roles: External) -> None:
    await roles.administrate(
        "CREATE DATABASE closed OWNER chat_app_user_2", "REVOKE CONNECT ON DATABASE closed FROM PUBLIC, chat_app_user_2"
    )
    address = roles.address("chat_app_user_2", "closed")
    said = await refusal(address)
    advice = re.search(r"GRANT CONNECT .*;", said)
    assert advice is not None
    await roles.administrate(advice[0])
    await prepare(address)


async def test_pg_hba_refusals_name_the_file_and_the_setting_for_tls(roles: External) -> None:
    plain = msgspec.structs.replace(roles.address("outsider", "postgres"), sslmode="disable")
    said = await refusal(plain)
    assert "pg_hba.conf" in said
    assert "DB_SSLMODE=require" in said


async def test_a_server_without_tls_is_told_from_a_wrong_setting(roles: External) -> None:
    demanding = msgspec.structs.replace(roles.address("maker", "postgres"), sslmode="require")
    said = await refusal(demanding)
    assert "does not speak TLS" in said
    assert "DB_SSLMODE=prefer" in said


async def test_too_old_a_server_is_refused_before_anything_is_created(
    roles: External, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "OLDEST_VERSION", 16)
    said = await refusal(roles.address("maker", "never_made"))
    assert "is PostgreSQL 15; 16 or newer is needed" in said
    connection = await connect(roles.superuser)
    assert not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = 'never_made'")
    await connection.close()


async def test_a_full_server_is_worth_waiting_for(roles: External) -> None:
    await roles.administrate("ALTER ROLE maker CONNECTION LIMIT 0")
    with pytest.raises(DatabaseUnavailable, match="DB_MAX_OPEN_CONNS"):
        await prepare(roles.address("maker", "postgres"))


@pytest.mark.parametrize(
    ("host", "words"),
    [("127.0.0.1", "nothing listens there"), ("no-such-host.invalid", "Check DB_HOST")],
)
async def test_an_unreachable_server_is_worth_waiting_for_and_says_what_to_check(host: str, words: str) -> None:
    address = Address(host=host, port=free_port())
    with pytest.raises(DatabaseUnavailable, match=words):
        await prepare(address)
    with pytest.raises(StartupError, match=words):
        await wait_and_prepare(address, give_up_after=0.15)


async def test_a_silent_server_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
        with pytest.raises(DatabaseUnavailable, match="DB_HOST, DB_PORT and the firewall"):
            await prepare(address)


async def test_the_program_may_start_first_and_is_ready_within_two_seconds_of_the_server(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pg15-", ignore_cleanup_errors=True) as name:
        postgres = EmbeddedPostgres(Path(name), bin_dir=str(OLDEST), extra_settings={"fsync": "off"})
        address = await postgres.start()
        await postgres.stop()

        pool = await open_pool(address, DatabaseSettings())
        with pytest.raises(DatabaseUnavailable):
            await pool.fetchval("SELECT 1")
        told = asyncio.Queue[str]()
        waiting = asyncio.create_task(wait_and_prepare(address, on_wait=lambda error: told.put_nowait(str(error))))
        async with asyncio.timeout(20):
            assert "nothing listens there" in await told.get()
        await asyncio.sleep(0.5)  # so that the pauses between tries have grown
        await postgres.start()
        began = time.monotonic()
        async with asyncio.timeout(20):
            await waiting
        assert time.monotonic() - began < 2
        assert await pool.fetchval("SELECT 1") == 1
        assert told.empty()
        await pool.close()
        await postgres.stop()


async def test_init_db_sql_makes_role_and_database_and_may_be_run_twice(roles: External) -> None:
    psql = OLDEST / "psql" if (OLDEST / "psql").exists() else Path(shutil.which("psql") or "psql")
    command = [
        *(str(psql), "-X", "-q", "-h", roles.superuser.host, "-p", str(roles.port), "-U", roles.superuser.user),
        *("-d", "postgres", "-v", 'role=the "app"', "-v", f"database={NAME}", "-f", str(INIT_SQL)),
    ]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    try:
        without = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert without.returncode != 0
        assert "DB_PASSWORD" in without.stderr
        for _ in range(2):
            subprocess.run(command, env={**environment, "DB_PASSWORD": PASSWORD}, check=True, capture_output=True)
        await prepare(roles.address('the "app"', NAME))
    finally:
        name = NAME.replace('"', '""')
        await roles.administrate(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', 'DROP ROLE IF EXISTS "the ""app"""')
