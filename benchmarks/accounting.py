"""What a tree of processes has cost so far, from /proc: processor time of all threads and children, and memory.

PostgreSQL's processes are counted apart, wherever they hang in the tree.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Process(msgspec.Struct, frozen=True):
    """One line of /proc/<pid>/stat, as far as it matters."""

    pid: int
    parent: int
    name: str
    cpu: float
    """Seconds, user and system, of all its threads and of its children that have ended."""


class Cost(msgspec.Struct, frozen=True):
    """Sums over a tree. Seconds and bytes."""

    cpu: float = 0.0
    database_cpu: float = 0.0
    rss: int = 0
    pss: int = 0
    """Proportional: shared pages divided by those who share them."""
    database_pss: int = 0
    processes: int = 0


def parse_stat(text: str) -> Process:
    """Read a stat line (proc(5)). The name may hold spaces and parentheses."""
    opening, closing = text.index("("), text.rindex(")")
    fields = text[closing + 2 :].split()
    ticks = sum(int(fields[index]) for index in (11, 12, 13, 14))
    return Process(int(text[:opening]), int(fields[1]), text[opening + 1 : closing], ticks * _TICK)


def _all_processes() -> dict[int, Process]:
    processes: dict[int, Process] = {}
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        try:
            process = parse_stat(Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        processes[process.pid] = process
    return processes


def machine_cpu() -> float:
    """Seconds that all processors of the machine have worked so far, whoever for."""
    fields = [int(field) for field in (_PROC / "stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) * _TICK


def tree(root: int) -> list[Process]:
    """`root` and everything below it."""
    processes = _all_processes()
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if pid in processes:
            found.append(processes[pid])
            waiting.extend(children.get(pid, ()))
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Resident and proportional bytes; zeros when the process is gone or not ours to look at."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    except OSError:
        return 0, 0
    values = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return values.get("Rss", 0), values.get("Pss", 0)


def cost_of(root: int, *, memory: bool = False) -> Cost:
    """The tree's cost so far. Memory takes milliseconds to ask for, so only on demand."""
    cpu = database_cpu = 0.0
    rss = pss = database_pss = 0
    processes = tree(root)
    for process in processes:
        resident, proportional = _memory(process.pid) if memory else (0, 0)
        if process.name.startswith("postgres"):
            database_cpu += process.cpu
            database_pss += proportional
        else:
            cpu += process.cpu
            rss += resident
            pss += proportional
    return Cost(cpu, database_cpu, rss, pss, database_pss, len(processes))
