"""Less than a core for a process, so that a small machine can show what several of them do."""

from __future__ import annotations

import shutil
import subprocess

from benchmarks.accounting import tree
from benchmarks.processes import BenchmarkError

_PERIOD = 5_000_000
"""Nanoseconds: a process that has used its part waits a few milliseconds, not for the rest of a second."""


def confine(root: int, share: float) -> None:
    """Allow each Python process from `root` on `share` of a core, and its database all of it.

    By the kernel's deadline scheduling (sched(7)): so much in each period, and that for certain. Linux, as root. Raises
    BenchmarkError where that cannot be had.
    """
    chrt = shutil.which("chrt")
    if chrt is None:
        raise BenchmarkError("chrt was not found (Debian: util-linux)")
    slices = [
        "--sched-runtime",
        f"{share * _PERIOD:.0f}",
        "--sched-deadline",
        f"{_PERIOD}",
        "--sched-period",
        f"{_PERIOD}",
    ]
    for process in tree(root):
        if process.name.startswith("python"):
            command = [chrt, "--reset-on-fork", "--deadline", *slices, "--pid", "0", f"{process.pid}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchmarkError(f"a process cannot be confined to a part of a core: {done.stderr.strip()}")
