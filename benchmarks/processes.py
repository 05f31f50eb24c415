"""Children of the benchmark: started, waited for, stopped by their own pid, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.client.plan import Outcome, Plan

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"


class BenchmarkError(Exception):
    """A child did not do what it should; the text says which and shows the end of its log."""


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-15:])


@asynccontextmanager
async def child(
    name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `argv` for the time of the context; its stderr goes to `.cache/bench/<name>.log`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{name}.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *map(str, argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await stop(process)


async def stop(process: asyncio.subprocess.Process, grace: float = 10.0) -> None:
    """SIGTERM, then after `grace` seconds SIGKILL."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.communicate(), grace)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def port_of(name: str, process: asyncio.subprocess.Process, timeout: float = 20.0) -> int:
    """The port a child prints as its first line. Raises BenchmarkError when it ends or stays silent."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), timeout)
        return int(line)
    except (TimeoutError, ValueError) as error:
        raise BenchmarkError(f"{name} did not start:\n{_tail(CACHE / f'{name}.log')}") from error


async def wait_until_healthy(name: str, port: int, path: str = "/health", timeout: float = 30.0) -> float:
    """Ask `path` until it answers 200. Returns the seconds it took; raises BenchmarkError beyond `timeout`."""
    began = time.monotonic()
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    while time.monotonic() - began < timeout:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            status = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            if b" 200 " in status:
                return time.monotonic() - began
        await asyncio.sleep(0.01)
    raise BenchmarkError(f"{name} is not healthy after {timeout:.0f} s:\n{_tail(CACHE / f'{name}.log')}")


async def run_client(plan: Plan) -> Outcome:
    """Carry out one load in a process of its own. Raises BenchmarkError when that process fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.client",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        output, problem = await process.communicate(msgspec.json.encode(plan))
    finally:
        await stop(process, grace=1)
    if process.returncode:
        raise BenchmarkError(f"the load process failed:\n{problem.decode()[-2000:]}")
    return msgspec.json.decode(output, type=Outcome)


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[str, Path]]:
    """The scripted model provider; yields its base URL and the file of its stamps."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, prefix="stamps-") as stamps:
        program = [sys.executable, "-m", "benchmarks.upstream", "--stamps", stamps.name]
        async with child("upstream", program) as process:
            yield f"http://127.0.0.1:{await port_of('upstream', process)}", Path(stamps.name)
