"""The LLM service as a supervised child of the product: `make run` with the extra `local` and a model.

The parent owns the listening socket and hands it down. So the address never changes, nobody else can take the port
between two lives of the child, and a request that arrives in that gap waits instead of failing. A small shell stands
between the two: it holds a pipe from the parent, and ends the child when the pipe closes, however the parent ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.engine import EngineSettings, require_installed
from llmchatbot.llm_service.machine import usable_cores
from llmchatbot.llm_service.service import READY
from llmchatbot.tasks import Supervisor

logger = logging.getLogger(__name__)

# The key comes down the pipe, so that it stands in no argument list and in no file. The watcher must not inherit the
# shell's standard input by itself: POSIX gives background commands /dev/null there, hence descriptor 3.
_WATCHDOG = """
IFS= read -r LLM_SERVICE_KEY || exit 1
export LLM_SERVICE_KEY
exec 3<&0 </dev/null
"$@" 3<&- &
child=$!
{
    cat <&3
    kill -TERM "$child"
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 "$child" || exit
        sleep 0.5
    done
    kill -KILL "$child"
} >/dev/null 2>&1 &
exec 3<&-
trap 'kill -TERM "$child"' TERM INT
wait "$child"
status=$?
if kill -0 "$child" 2>/dev/null; then
    wait "$child"
    status=$?
fi
trap '' TERM
kill -TERM 0
exit "$status"
"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_GOOD_LIFE = 60.0
"""Seconds after which a life counts as good, and the next restart is quick again."""
_MISSED_CHECKS = 3
_LAST_WORDS = 12


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    model: Path
    engine: EngineSettings
    load_timeout: float = 120.0  # seconds
    check_interval: float = 5.0
    check_timeout: float = 5.0
    drain: float = 5.0  # the product has drained its own answers before it stops this


def settings_for(model: Path) -> ChildSettings:
    """What a supervised child is started with: the slots that fit, and one core left for the product."""
    return ChildSettings(model=model, engine=EngineSettings(threads=max(1, usable_cores() - 1)))


class LocalModelChild:
    """One model in a process of its own, kept alive until `stop`."""

    def __init__(self, settings: ChildSettings) -> None:
        self._settings = settings
        self._key = secrets.token_urlsafe(32)
        self._socket: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._tasks = Supervisor("local-model")
        self._ready = asyncio.Event()
        self._said_all = asyncio.Event()
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether the child serves right now."""
        return self._ready.is_set()

    async def start(self) -> tuple[str, str]:
        """Wait until the model is loaded; the base URL and the key of the service.

        Raises StartupError with the child's own sentence when it cannot start.
        """
        require_installed()
        self._socket = _listen()
        host, port = self._socket.getsockname()[:2]
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        self._tasks.spawn(self._supervise(), name="supervise")
        return f"http://{host}:{port}", self._key

    async def stop(self) -> None:
        """Ends the child and waits for it. May be called twice."""
        await self._tasks.close()
        if self._process is not None:
            await self._end(self._process)
            self._process = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _launch(self) -> None:
        """One life, up to the line that says that it serves."""
        listener = self._socket
        if listener is None:
            raise StartupError("The local model was stopped.")
        self._ready.clear()
        self._said_all.clear()
        self._last_words.clear()
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _WATCHDOG, "sh", *self._command(listener.fileno())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(listener.fileno(),),
            start_new_session=True,  # Ctrl-C reaches the product only, which stops this last
        )
        self._process = process
        if process.stdin is not None:
            process.stdin.write(self._key.encode() + b"\n")
        self._tasks.spawn(self._read_output(process), name="output")
        self._tasks.spawn(self._read_errors(process), name="errors")
        await self._until_ready(process)
        logger.info("local model ready pid=%d seconds=%.2f", process.pid, time.monotonic() - started)

    def _command(self, descriptor: int) -> list[str]:
        engine = self._settings.engine
        return [
            *(sys.executable, "-m", "llmchatbot.llm_service", "--model", str(self._settings.model)),
            *("--listen-fd", str(descriptor), "--slots", str(engine.slots), "--context", str(engine.context)),
            *("--threads", str(engine.threads), "--batch", str(engine.batch), "--drain", str(self._settings.drain)),
        ]

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        ready = asyncio.ensure_future(self._ready.wait())
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({ready, ended}, timeout=self._settings.load_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if self._ready.is_set():
            return
        if process.returncode is None:
            raise StartupError(f"The local model was not loaded within {self._settings.load_timeout:.0f} s.")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._said_all.wait(), timeout=1)
        words = "\n".join(self._last_words) or f"It ended with status {process.returncode} and said nothing."
        raise StartupError(f"The local model {self._settings.model.name} did not start.\n{words}")

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        async for line in _lines(process.stdout):
            if line.startswith(READY):
                self._ready.set()
            logger.info("local model: %s", line)

    async def _read_errors(self, process: asyncio.subprocess.Process) -> None:
        async for line in _lines(process.stderr):
            self._last_words.append(line)
            logger.info("local model: %s", line)
        self._said_all.set()

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            started = time.monotonic()
            await self._until_gone()
            self._ready.clear()
            if time.monotonic() - started > _GOOD_LIFE:
                pause = _FIRST_PAUSE
            pause = await self._start_again(pause)

    async def _start_again(self, pause: float) -> float:
        while True:
            if self._process is not None:
                await self._end(self._process, gently=False)
            logger.info("local model starts again in %.1f s", pause)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)
            self.restarts += 1
            try:
                await self._launch()
            except (StartupError, OSError) as error:
                logger.warning("local model did not come back: %s", error)
            else:
                return pause

    async def _until_gone(self) -> None:
        """Returns when the child ended, or did not answer several checks in a row."""
        process, missed = self._process, 0
        timeout = aiohttp.ClientTimeout(total=self._settings.check_timeout)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while process is not None and missed < _MISSED_CHECKS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), timeout=self._settings.check_interval)
                if process.returncode is not None:
                    break
                missed = 0 if await self._answers(session) else missed + 1
            logger.warning("local model is gone status=%s checks_missed=%d", process and process.returncode, missed)

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        if self._socket is None:
            return False
        host, port = self._socket.getsockname()[:2]
        try:
            async with session.get(f"http://{host}:{port}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _end(self, process: asyncio.subprocess.Process, *, gently: bool = True) -> None:
        if gently and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(self._settings.drain + 3):
                    await process.wait()
            except TimeoutError:
                logger.warning("local model did not end in time pid=%d", process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class LocalModelThread:
    """The same for a parent without an event loop, such as the launcher: the supervision runs in a thread."""

    def __init__(self, settings: ChildSettings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-model", daemon=True)
        self._child: LocalModelChild | None = None

    def start_blocking(self) -> tuple[str, str]:
        """See `LocalModelChild.start`."""
        self._thread.start()
        self._child = LocalModelChild(self._settings)
        try:
            return asyncio.run_coroutine_threadsafe(self._child.start(), self._loop).result()
        except BaseException:
            self.stop_blocking()
            raise

    def stop_blocking(self) -> None:
        """Ends the child, then the thread. May be called twice."""
        if self._loop.is_closed():
            return
        if self._child is not None:
            asyncio.run_coroutine_threadsafe(self._child.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than the reader's buffer: nothing that a person would read
        if not line:
            return
        yield line.decode("utf-8", "replace").rstrip()


def _listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    return listener
