"""What this machine is: its memory and cores as a container sees them, its instructions, its own names."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from llmchatbot.errors import StartupError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""The names of this machine that nobody else can reach."""
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be used without swapping: the smallest of the system's and the control group's; None: unknown."""
    candidates = [_system_memory(root), *(_group_memory(folder) for folder in _groups(root))]
    known = [candidate for candidate in candidates if candidate is not None]
    return max(0, min(known)) if known else None


def usable_cores(root: Path = Path("/")) -> int:
    """Cores this process may use. More threads than these make llama.cpp many times slower, not faster."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    for folder in _groups(root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def require_instructions(root: Path = Path("/")) -> None:
    """Raise StartupError where the wheel of the engine would die of an illegal instruction (SIGILL)."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return
    flags = next((line for line in _text(root / "proc/cpuinfo").splitlines() if line.startswith("flags")), "")
    if flags and "avx2" not in flags.split():
        raise StartupError(
            "This processor has no AVX2, which the prebuilt engine for local models needs.\n"
            "Build it here with: pip install --no-binary xllamacpp xllamacpp\n"
            "or run a model server elsewhere and set LLM_SERVICE_URL."
        )


def _system_memory(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    try:
        # macOS has no such file; half of all memory is a cautious guess at what is free.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError):
        return None


def _groups(root: Path) -> list[Path]:
    """The control group (v2) of this process, and the top one, which inside a container is the container's own."""
    top = root / "sys/fs/cgroup"
    folders = [top]
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        path = rest.partition(":")[2].strip("/")
        if number == "0" and path and ".." not in path.split("/"):
            folders.append(top / path)
    return folders


def _group_memory(folder: Path) -> int | None:
    limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
    if not (limit.isdigit() and used.isdigit()) or int(limit) >= _UNLIMITED:
        return None
    # Pages of files that nobody uses count as used but are given back at once: the model file itself is among them.
    reclaimable = 0
    for line in _text(folder / "memory.stat").splitlines():
        if line.startswith("inactive_file "):
            reclaimable = int(line.split()[1])
    return int(limit) - int(used) + reclaimable


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
