"""Nodes that stand still: what a hanging machine, a paused container or a clock that jumps looks like to the others."""

from __future__ import annotations

import asyncio

from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.processes import NodeProcess
from llmchatbot.drill.reading import Follower

_RATE = 80


async def zombie(arena: Arena) -> None:
    """Sleeps past its lease with answers in its hands; wakes while others write them, and again after they are done."""
    rounds = arena.amount(2, 50)
    arena.expect(rounds)
    async with arena.people(1) as people:
        for number in range(rounds):
            await _zombie_once(arena, people[0], number)
            arena.outcome.count("zombies")
            arena.step()


async def _zombie_once(arena: Arena, person: Person, number: int) -> None:
    nodes = arena.cluster.nodes
    victim = arena.rng.choice(nodes)
    other = next(node for node in nodes if node is not victim)
    asleep = arena.pace.lease + arena.rng.uniform(1.2, 3.0)
    tokens = round(_RATE * (asleep + 2))
    followers: list[Follower] = []
    try:
        async with asyncio.TaskGroup() as group:
            for model in ("scripted", "plain", "upstream"):
                script = f"rate={_RATE} tokens={tokens} seed={number + 1}"
                may_end = ("completed", "interrupted") if model == "plain" else ("completed",)
                generation_id = await arena.ask(person, script, url=victim.url, model=model, may_end=may_end)
                for reader in (victim, other):
                    follower = arena.follower(generation_id)
                    followers.append(follower)
                    group.create_task(person.follow(follower, url=reader.url))
            await asyncio.sleep(arena.rng.uniform(0.3, 1.0))
            victim.pause()
            await asyncio.sleep(asleep)
            victim.resume()
    finally:
        victim.resume()
    for follower in followers:
        arena.outcome.count(f"readings {follower.status}")


async def clock(arena: Arena) -> None:
    """Every node pauses now and then, for less than a lease or for more, while people talk to all of them."""
    pauses = arena.amount(3, 100)
    arena.expect(pauses)
    done = asyncio.Event()
    async with arena.people(4) as people, asyncio.TaskGroup() as group:
        for number, person in enumerate(people):
            group.create_task(_talk(arena, person, number, done))
        try:
            for _ in range(pauses):
                await _pause(arena, arena.rng.choice(arena.cluster.nodes))
                arena.outcome.count("pauses")
                arena.step()
        finally:
            done.set()


async def _pause(arena: Arena, node: NodeProcess) -> None:
    try:
        node.pause()
        await asyncio.sleep(arena.pace.lease * arena.rng.uniform(0.5, 1.5))
    finally:
        node.resume()
    await asyncio.sleep(arena.rng.uniform(0.2, 1.5))


async def _talk(arena: Arena, person: Person, number: int, done: asyncio.Event) -> None:
    seed = 1000 * (number + 1)
    while not done.is_set():
        seed += 1
        model = arena.rng.choice(("scripted", "plain", "upstream"))
        may_end = ("completed", "interrupted") if model == "plain" else ("completed",)
        url = arena.rng.choice(arena.urls)
        generation_id = await arena.ask(
            person, f"rate=60 tokens=120 seed={seed}", url=url, model=model, may_end=may_end
        )
        await person.follow(arena.follower(generation_id), url=arena.rng.choice(arena.urls))
