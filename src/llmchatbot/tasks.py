"""Background tasks that have a name, an owner and an end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from llmchatbot.errors import Unavailable

logger = logging.getLogger(__name__)


class Supervisor:
    """Owns tasks: keeps their references, logs what kills them, and ends them all on `close`.

    `spawn` runs something once; `keep` runs a loop for ever and starts it again after a pause when it fails,
    because a dead background loop is an outage that nobody sees.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def keep(self, run: Callable[[], Awaitable[None]], *, name: str, pause: float = 1.0) -> None:
        """`pause` in seconds between a failure and the next start."""

        async def loop() -> None:
            while not self._closing:
                try:
                    await run()
                except Unavailable as error:
                    # Waited for, not a fault: no trace.
                    logger.warning("background loop %s waits %.1f s: %s", name, pause, error.detail)
                except Exception:
                    logger.exception("background loop %s failed; starting it again in %.1f s", name, pause)
                await asyncio.sleep(pause)

        self.spawn(loop(), name=name)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task %s died", task.get_name(), exc_info=error)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Cancel everything and wait, at most `timeout` seconds; says by name what would not end."""
        self._closing = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=timeout)
        for task in pending:
            logger.error("background task %s did not end within %.1f s", task.get_name(), timeout)
