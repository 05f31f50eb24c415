"""The embedded PostgreSQL: made on the first start, a child of this process, gone with it however it ends.

Two things hold that together, and both work on Linux and macOS alike:

- A shell holds the reading end of a pipe from us. End of file means that we stop or are dead (`kill -9` too); then it
  interrupts PostgreSQL, which shuts down cleanly. One path for every ending.
- The lock file's descriptor is inherited by the server. So the lock is free only when both the supervisor and its
  server are gone, and a `postmaster.pid` found under a fresh lock is always stale.

The server runs in a session of its own: Ctrl-C in a terminal reaches us alone, and we stop it last. Everything here is
ordinary threads and processes, not tasks, since the server must outlive any single event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from llmchatbot.database.address import Address
from llmchatbot.database.binaries import ENVIRONMENT, Binaries, Identity, find_binaries, identity_for
from llmchatbot.database.cluster import (
    PORT,
    ROLE,
    discard_stale_pid_file,
    is_ready,
    major_of,
    make_cluster,
    postmaster_pid,
    socket_folder,
)
from llmchatbot.database.data_lock import DataLock
from llmchatbot.errors import StartupError

logger = logging.getLogger(__name__)

_START_TIMEOUT = 120.0  # crash recovery reads at most max_wal_size
_STOP_TIMEOUT = 20.0
_LOG_LIMIT = 10 << 20

# "$@" is the server. `read` ends with our pipe; the traps keep a stray signal from ending the shell before the server.
_WATCHDOG = """
exec 3<&0
trap : INT TERM HUP
"$@" </dev/null 3<&- &
server=$!
{ trap - INT TERM HUP; read -r _ <&3; kill -INT "$server"; } &
reader=$!
wait "$server"; status=$?
while kill -0 "$server" 2>/dev/null; do wait "$server"; status=$?; done
kill "$reader" 2>/dev/null
exit "$status"
"""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_completion_target": "0.9",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",  # the /dev/shm of a container is 64 MB
    "log_checkpoints": "off",
    # Failed statements are the application's to report; with their details they would put people's data into a file.
    "log_min_messages": "log",
    "log_error_verbosity": "terse",
}


class EmbeddedPostgres:
    """PostgreSQL in `data_dir`/postgres, its log in `data_dir`/postgres.log.

    `start` raises StartupError with a sentence that says what to type. An unexpected end of the server is repaired: it
    is started again, on the same socket, until `stop`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: str = "",
        max_connections: int = 100,
        database: str = "chat_db",
        progress: Callable[[str], None] = logger.info,
        extra_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data_dir = data_dir.expanduser().absolute()
        self._cluster = self._data_dir / "postgres"
        self._log = self._data_dir / "postgres.log"
        self._bin_dir = bin_dir
        self._database = database
        self._progress = progress
        self._settings = {**SETTINGS, "max_connections": str(max_connections), **(extra_settings or {})}
        self._lock = DataLock(self._data_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return postmaster_pid(self._cluster)

    async def start(self) -> Address:
        """Make the cluster if there is none, start the server, return once it takes connections."""
        return await asyncio.to_thread(self.start_blocking)

    async def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, the data are left clean. Twice is once."""
        await asyncio.to_thread(self.stop_blocking)

    def start_blocking(self) -> Address:
        """`start` for a launcher without an event loop."""
        try:
            self._data_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartupError(
                f"The data directory {self._data_dir} cannot be made: {error.strerror}.\n"
                "Set DATA_DIR to a folder you may write."
            ) from error
        self._lock.acquire()
        try:
            launch = self._prepare()
            self._stopping.clear()
            self._launch(launch)
        except OSError as error:
            self._lock.release()
            raise StartupError(
                f"The embedded PostgreSQL cannot be started in {self._data_dir}: {error}.\n"
                "Start as the owner of that folder, make room on its disk, or set another DATA_DIR."
            ) from error
        except BaseException:
            self._lock.release()
            raise
        _call_in_forked_children(self._forget)
        self._keeper = threading.Thread(target=self._keep, args=(launch,), name="embedded-postgres", daemon=True)
        self._keeper.start()
        port = int(self._settings["port"])  # of a socket: a part of its name
        return Address(host=str(launch.folder), port=port, user=ROLE, database=self._database, sslmode="disable")

    def stop_blocking(self) -> None:
        """`stop` for a launcher without an event loop."""
        self._stopping.set()
        if self._keeper is not None:
            self._end()
            self._keeper.join()
            self._keeper = None
        self._lock.release()

    def _prepare(self) -> _Launch:
        binaries = find_binaries(self._bin_dir, major_of(self._cluster))
        identity = identity_for(self._cluster, binaries)
        if not self._cluster.exists():
            self._progress(f"Making a PostgreSQL {binaries.major} database in {self._cluster} (first start only) …")
            make_cluster(self._cluster, binaries, identity, sync=self._settings.get("fsync") != "off")
        folder = socket_folder(self._cluster, os.geteuid() if identity.uid is None else identity.uid)
        discard_stale_pid_file(self._cluster)
        return _Launch(binaries, identity, folder)

    def _launch(self, launch: _Launch) -> None:
        quoted = '"' + str(launch.folder).replace('"', '""') + '"'
        settings = {**self._settings, "unix_socket_directories": quoted}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = [launch.binaries.postgres, "-D", str(self._cluster), *options]
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.old"))
        with os.fdopen(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the shell's text is a constant
                [*launch.identity.prefix, "/bin/sh", "-c", _WATCHDOG, "postgres-watchdog", *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                pass_fds=(self._lock.descriptor,),
                **launch.identity.popen_arguments(),
            )
        try:
            self._await_ready(self._process)
        except BaseException as error:
            self._end()
            if isinstance(error, StartupError):
                raise StartupError(f"{error}\n{self._log_from(begin)}") from error
            raise

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        started = told = time.monotonic()
        while process.poll() is None:
            if is_ready(self._cluster):
                return
            now = time.monotonic()
            if now - started > _START_TIMEOUT:
                raise StartupError(f"The embedded PostgreSQL was not ready after {_START_TIMEOUT:.0f} s ({self._log}):")
            if now - told > 2:
                told = now
                self._progress("Waiting for PostgreSQL to recover its data …")
            time.sleep(0.005)
        raise StartupError(f"The embedded PostgreSQL did not start. Its last words, all of them in {self._log}:")

    def _log_from(self, begin: int) -> str:
        with self._log.open("rb") as log:
            log.seek(begin)
            return log.read()[-2000:].decode(errors="replace").strip()

    def _keep(self, launch: _Launch) -> None:
        """Start the server again when it ends without being told to."""
        pause = 0.1
        while self._process is not None:
            status = self._process.wait()
            _close_pipe(self._process)
            if self._stopping.is_set():
                return
            logger.error("event=embedded_postgres_died status=%s", status)
            if self._stopping.wait(pause):
                return
            try:
                self._launch(launch)
                pause = 0.1
            except (StartupError, OSError):
                logger.exception("event=embedded_postgres_restart_failed")
                pause = min(2 * pause, 5.0)
            if self._stopping.is_set():
                self._end()

    def _end(self) -> None:
        """Close the pipe, and be less kind when that is not enough."""
        process = self._process
        if process is None:
            return
        server = self.pid
        _close_pipe(process)
        for patience, harder in ((_STOP_TIMEOUT, signal.SIGQUIT), (5.0, signal.SIGKILL)):
            if _ended(process, patience):
                return
            logger.error("event=embedded_postgres_slow_stop signal=%s", harder.name)
            if server is not None and process.poll() is None:
                os.kill(server, harder)
        if not _ended(process, 5.0):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _forget(self) -> None:
        """In a forked child: the server belongs to the parent alone; the child must not keep pipe and lock open."""
        if self._process is not None:
            _close_pipe(self._process)
        self._process = self._keeper = None
        self._lock.release()


class _Launch:
    """What was decided at the start and stays so for restarts."""

    def __init__(self, binaries: Binaries, identity: Identity, folder: Path) -> None:
        self.binaries, self.identity, self.folder = binaries, identity, folder


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _ended(process: subprocess.Popen[bytes], patience: float) -> bool:
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        return False
    return True


def _call_in_forked_children(method: Callable[[], None]) -> None:
    """Without keeping the method's object alive: a registration cannot be taken back."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (living := reference()) is not None:
            living()

    os.register_at_fork(after_in_child=call)
