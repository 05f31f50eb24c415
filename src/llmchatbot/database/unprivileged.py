"""Run a program as an ordinary user inside a user namespace: `python -I -S unprivileged.py PROGRAM ARGUMENTS…`.

PostgreSQL refuses to run as root. In a namespace of its own it sees the unprivileged id 65534, while for the rest of
the system the process still is root's: no account is made and no mode or owner of any file is changed. A program of its
own, because `unshare(CLONE_NEWUSER)` works in a process with one thread only. Standard library only: it runs without
site-packages.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
UNPRIVILEGED_ID = 65534
EX_OSERR = 71


def enter_namespace() -> None:
    """Raises OSError where the system forbids user namespaces (the usual seccomp profile of containers does)."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # user_namespaces(7): the group map may be written only after setgroups is denied.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{UNPRIVILEGED_ID} {gid} 1")
    Path("/proc/self/uid_map").write_text(f"{UNPRIVILEGED_ID} {uid} 1")


def main() -> int:
    try:
        enter_namespace()
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is wanted
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"cannot run {sys.argv[1]} in a user namespace: {error}\n")
    return EX_OSERR


if __name__ == "__main__":
    sys.exit(main())
