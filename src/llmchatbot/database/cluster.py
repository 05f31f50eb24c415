"""A PostgreSQL data directory as files: making it, its version, its socket, its `postmaster.pid`."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

from llmchatbot.database.binaries import Binaries, Identity
from llmchatbot.errors import StartupError

ROLE = "chat_app_user"
PORT = 5432  # of a Unix socket: a part of its name only
_SOCKET = f".s.PGSQL.{PORT}"
# sun_path holds 104 bytes on macOS, 108 on Linux, the closing zero included.
_LONGEST_SOCKET_PATH = 103
_INITDB_TIMEOUT = 120.0


def major_of(cluster: Path) -> int | None:
    """The version that made the data, None when there are none. Raises StartupError when that cannot be told."""
    try:
        if not cluster.exists():
            return None
        return int((cluster / "PG_VERSION").read_text())
    except (OSError, ValueError) as error:
        raise StartupError(
            f"{cluster} holds no readable PostgreSQL data ({error}).\n"
            "Start as its owner, or move the folder away to begin anew."
        ) from error


def make_cluster(cluster: Path, binaries: Binaries, identity: Identity, *, sync: bool = True) -> None:
    """`initdb` beside the final place, then one rename: a cluster is there whole or not at all.

    The role chat_app_user is its superuser; whoever can open the socket, which lies in a 0700 folder, is trusted.
    """
    unfinished = cluster.with_name(cluster.name + ".unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    if identity.uid is not None:
        os.chown(unfinished, identity.uid, -1 if identity.gid is None else identity.gid)
        cluster.parent.chmod(0o711)  # the other account must get through, not look around
    # The built-in provider sorts alike on every platform; it exists from version 17 on.
    builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    locale = builtin if binaries.major >= 17 else ["--locale=C.UTF-8"]
    command = [binaries.initdb, "-D", str(unfinished), "-U", ROLE, "-E", "UTF8", "--auth=trust", *locale]
    try:
        answer = identity.run(*command, *([] if sync else ["--no-sync"]), timeout=_INITDB_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise StartupError(f"initdb could not be run: {error}") from error
    if answer.returncode != 0:
        raise StartupError(f"initdb failed in {cluster.parent}:\n{answer.stderr.strip()}")
    unfinished.rename(cluster)


def socket_folder(cluster: Path, owner: int) -> Path:
    """The cluster itself: it is 0700, so file permission is authentication. A short folder where that is too long."""
    if len(os.fsencode(cluster / _SOCKET)) <= _LONGEST_SOCKET_PATH:
        return cluster
    name = "llmchatbot-" + hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(folder / _SOCKET)) > _LONGEST_SOCKET_PATH:
        folder = Path("/tmp") / name  # noqa: S108 - owner and mode are checked below
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, -1)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
            raise StartupError(
                f"The path of {cluster} is too long for a socket, and {folder} belongs to somebody else.\n"
                "Set DATA_DIR to a shorter path."
            ) from None
    return folder


def socket_of(cluster: Path) -> tuple[str, int] | None:
    """Folder and port of the socket on which a server of `cluster` answers right now."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
    except OSError:
        return None
    if len(lines) < 5 or not lines[4]:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(f"{lines[4]}/.s.PGSQL.{lines[3]}")
        except OSError:
            return None
    return lines[4], int(lines[3])


def discard_stale_pid_file(cluster: Path) -> None:
    """For the holder of the lock only: then no server of ours runs, whatever the file says.

    After a reboot, or in a container, the process id in it may be a stranger's, and PostgreSQL would refuse to start.
    Raises StartupError when a server that somebody started by hand answers on the socket that the file names.
    """
    if socket_of(cluster) is not None:
        pid = postmaster_pid(cluster)
        raise StartupError(
            f"A PostgreSQL that was started by hand (process {pid}) uses {cluster}.\nStop it first: kill -INT {pid}"
        )
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def postmaster_pid(cluster: Path) -> int | None:
    """Process id of the server that runs on `cluster`, as it says itself."""
    try:
        return int((cluster / "postmaster.pid").read_text(errors="replace").split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def is_ready(cluster: Path) -> bool:
    """Whether the server takes connections: it writes that into its pid file (what `pg_ctl -w` waits for)."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"
