"""One owner for a data directory: a lock that the server process shares, so that it outlives a killed supervisor."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from llmchatbot.errors import StartupError

_HOLDER_PATIENCE = 1.0  # a killed predecessor's server needs a tenth of a second, and its id may be in use again
_ORPHAN_PATIENCE = 60.0
# The watchdog shell may use the digits 0 to 9 for its own descriptors.
_LOWEST_DESCRIPTOR = 10


class DataLock:
    """`flock` on `data_dir`/postgres.lock, which holds the owner's process id.

    The lock belongs to the open file, not to the process: whoever inherits `descriptor` keeps it held. Free means that
    the supervisor and its server both are gone.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "postgres.lock"
        self.descriptor = -1

    def acquire(self) -> None:
        """Blocks while the server of a dead owner shuts down. Raises StartupError naming a living owner."""
        descriptor = self._open()
        try:
            self._wait_for(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor

    def release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _open(self) -> int:
        try:
            opened = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartupError(
                f"The data directory {self._data_dir} cannot be used: {error.strerror}.\n"
                "Start as its owner, or set DATA_DIR to a folder you may write."
            ) from error
        try:
            return fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
        finally:
            os.close(opened)

    def _wait_for(self, descriptor: int) -> None:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                patience = _HOLDER_PATIENCE if _alive(holder) else _ORPHAN_PATIENCE
                if time.monotonic() - started > patience:
                    raise StartupError(self._held_by(holder)) from error
            except OSError as error:
                raise StartupError(f"{self._path} cannot be locked: {error}. Set DATA_DIR to a local disk.") from error
            else:
                return
            time.sleep(0.02)

    def _held_by(self, holder: str) -> str:
        if _alive(holder):
            return (
                f"Another process (id {holder}) already runs with the data directory {self._data_dir}.\n"
                f"Stop it (kill {holder}), or give this one a DATA_DIR and a SERVER_PORT of its own."
            )
        return (
            f"The database in {self._data_dir} is still being closed by an earlier run "
            f"(process {holder or 'unknown'}) and does not end.\n"
            f"See {self._data_dir / 'postgres.log'}, and stop the process whose id is the first line of "
            f"{self._data_dir / 'postgres' / 'postmaster.pid'}."
        )


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
