"""SIGTERM to one node after the other behind a balancer, under live streams: a deploy."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.proxy import FaultProxy

_HEALTH_SECONDS = 0.1
_LONGEST_EXIT = 30.0


class _Health:
    """Asks every node whether it is ready, as a balancer does."""

    def __init__(self, targets: list[tuple[str, int]]) -> None:
        self._up = dict.fromkeys(targets, True)

    def is_up(self, target: tuple[str, int]) -> bool:
        return self._up[target]

    async def watch(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while True:
                await asyncio.gather(*(self._ask(session, target) for target in self._up))
                await asyncio.sleep(_HEALTH_SECONDS)

    async def _ask(self, session: aiohttp.ClientSession, target: tuple[str, int]) -> None:
        up = False
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with session.get(f"http://{target[0]}:{target[1]}/health/ready") as response:
                up = response.status == 200
        self._up[target] = up


async def run(arena: Arena) -> None:
    streams = arena.amount(20, 200)
    nodes = arena.cluster.nodes
    arena.expect(len(nodes))
    arena.outcome.limit("SIGTERM to exit", _LONGEST_EXIT + 5)
    health = _Health(arena.targets)
    watching = asyncio.create_task(health.watch())
    done = asyncio.Event()
    try:
        async with FaultProxy(arena.targets, is_up=health.is_up) as balancer, arena.people(4) as people:
            for person in people:
                person.urls = [balancer.url]
            async with asyncio.TaskGroup() as group:
                for number in range(streams):
                    group.create_task(_lane(arena, people[number % len(people)], number, done))
                try:
                    for node in nodes:
                        await asyncio.sleep(0.5)
                        began = asyncio.get_running_loop().time()
                        node.terminate()
                        code = await node.ended(_LONGEST_EXIT + arena.pace.drain)
                        arena.outcome.time("SIGTERM to exit", asyncio.get_running_loop().time() - began)
                        arena.outcome.check(code == 0, f"{node.name} ended with {code}")
                        await node.start()
                        arena.outcome.count("restarts")
                        arena.step()
                finally:
                    done.set()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _lane(arena: Arena, person: Person, number: int, done: asyncio.Event) -> None:
    """Somebody who reads one answer after the other, with a client that gives up where a browser's does."""
    seed = 1000 * (number + 1)
    chat = await person.chat()
    while not done.is_set():
        seed += 1
        generation_id = await arena.ask(person, f"rate=40 tokens=200 seed={seed}", chat=chat)
        follower = arena.follower(generation_id)
        await person.follow(follower, native=True)
        arena.outcome.check(follower.status == "completed", f"{generation_id} ended as '{follower.status}'")
        arena.outcome.count("streams")
