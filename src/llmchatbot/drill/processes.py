"""Server processes that a drill starts, kills, stalls and ends, each by its own id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from llmchatbot.errors import StartupError

_START_SECONDS = 60.0
_LOG_TAIL = 3000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NodeProcess:
    """One `llmchatbot serve`. Its port and its log stay the same when it is started again."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log_path = folder / f"{name}.log"
        self._folder = folder
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DATA_DIR": str(folder / f"{name}-data"),
            "SERVER_PORT": str(self.port),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Raises StartupError when it does not run."""
        if self._process is None:
            raise StartupError(f"{self.name} was not started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Returns when it is ready to serve. Raises StartupError with the end of its log."""
        self.spawn()
        await self.wait_ready()

    def spawn(self) -> None:
        with self._log_path.open("ab") as log:
            # A session of its own, so that Ctrl-C reaches the drill alone, which ends its processes in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llmchatbot", "serve"],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while loop.time() < deadline:
                if not self.running:
                    raise StartupError(f"{self.name} ended at its start:\n{self.log()[-_LOG_TAIL:]}")
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.get(f"{self.url}/health/ready") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)
        raise StartupError(f"{self.name} was not ready in {_START_SECONDS:.0f} s:\n{self.log()[-_LOG_TAIL:]}")

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def resident_bytes(self) -> int:
        """Memory of the process as Linux counts it; 0 where it does not."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return 0
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines.get("VmRSS", "0 kB").split()[0]) * 1024

    def kill(self) -> None:
        """As a crash: no word to anybody."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """As a machine that hangs: all of it stands still."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    async def ended(self, seconds: float) -> int | None:
        """The exit code, or None when it still runs after `seconds`."""
        if self._process is None:
            return None
        try:
            return await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Whatever state it is in. Twice is once."""
        if self.running:
            self._send(signal.SIGCONT)
            self.kill()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
