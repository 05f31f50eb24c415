"""Redis killed and started again, all the time: it only carries hints, so nothing may be wrong, and little late."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from pathlib import Path

from llmchatbot.drill.apart import apart
from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.processes import free_port

_GAP = "gap between two events on another node"
_LONGEST_GAP = 1.0
_PEOPLE = 4
# After the kills it stays away for so many seconds.
_LONG_ABSENCE = 60.0


def why_not(arena: Arena) -> str:
    return "" if shutil.which("redis-server") else "there is no redis-server on this machine"


class _Redis:
    """A Redis that keeps nothing, on one port for its whole life."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server") or "redis-server"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(  # noqa: S603 - constants
            [program, *options],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None


async def run(arena: Arena) -> None:
    """On nodes of its own: those of the other plans know no Redis."""
    kills = arena.amount(4, 60)
    arena.expect(kills)
    arena.outcome.limit(_GAP, _LONGEST_GAP)
    redis = _Redis(arena.cluster.folder)
    environment = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port)}
    redis.start()
    try:
        async with apart(arena, nodes=2, environment=environment) as inner:
            await _under_load(inner, redis, kills)
    finally:
        redis.kill()


async def _under_load(arena: Arena, redis: _Redis, kills: int) -> None:
    done = asyncio.Event()
    every = 5.0 if arena.full else 1.5
    async with arena.people(_PEOPLE) as people, asyncio.TaskGroup() as group:
        for number, person in enumerate(people):
            group.create_task(_talk(arena, person, number, done))
        try:
            for _ in range(kills):
                await asyncio.sleep(every)
                redis.kill()
                await asyncio.sleep(arena.rng.uniform(0, every / 2))
                redis.start()
                arena.outcome.count("kills of Redis")
                arena.step()
            redis.kill()
            await asyncio.sleep(_LONG_ABSENCE if arena.full else every)
        finally:
            done.set()


async def _talk(arena: Arena, person: Person, number: int, done: asyncio.Event) -> None:
    seed = 1000 * (number + 1)
    while not done.is_set():
        seed += 1
        maker, reader = arena.rng.sample(arena.urls, 2)
        generation_id = await arena.ask(person, f"rate=50 tokens=120 seed={seed}", url=maker)
        follower = arena.follower(generation_id)
        await person.follow(follower, url=reader)
        for previous, next_ in zip(follower.times, follower.times[1:], strict=False):
            arena.outcome.time(_GAP, next_ - previous)
