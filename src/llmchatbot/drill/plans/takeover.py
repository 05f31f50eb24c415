"""kill -9 of the node that makes answers, while their readers sit at others."""

from __future__ import annotations

import asyncio

from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.reading import Follower

_SILENCE = "kill to next event"


async def run(arena: Arena) -> None:
    kills = arena.amount(3, 200)
    arena.expect(kills)
    arena.outcome.limit(_SILENCE, arena.pace.takeover)
    async with arena.people(1) as people:
        for number in range(kills):
            await _kill_once(arena, people[0], number)
            arena.outcome.count("kills")
            arena.step()


async def _kill_once(arena: Arena, person: Person, kill: int) -> None:
    nodes = arena.cluster.nodes
    victim = arena.rng.choice(nodes)
    others = [node for node in nodes if node is not victim]
    followers = []
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for model, script in _scripts(kill):
            may_break = ("completed", "interrupted") if model == "plain" else ("completed",)
            generation_id = await arena.ask(person, script, url=victim.url, model=model, may_end=may_break)
            follower = arena.follower(generation_id)
            followers.append(follower)
            group.create_task(person.follow(follower, url=arena.rng.choice(others).url))
        await asyncio.sleep(arena.rng.uniform(0.05, 2.0))
        moment = loop.time()
        victim.kill()
        victim.spawn()
    for number, follower in enumerate(followers):
        _judge(arena, follower, number, moment)
    await victim.wait_ready()


def _scripts(kill: int) -> list[tuple[str, str]]:
    """Two that others go on with, one whose text cannot be continued, one that was not begun yet."""
    return [
        ("scripted", f"rate=150 tokens=450 seed={4 * kill + 1}"),
        ("upstream", f"rate=120 tokens=400 seed={4 * kill + 2}"),
        ("plain", f"rate=150 tokens=450 seed={4 * kill + 3}"),
        ("plain", f"first=2.5 rate=200 tokens=100 seed={4 * kill + 4}"),
    ]


def _judge(arena: Arena, follower: Follower, number: int, moment: float) -> None:
    if follower.times and follower.times[-1] <= moment:
        arena.outcome.count("ended before the kill")
        return
    if number != 3:
        # The last one waits for its model, and that takes its time.
        arena.outcome.time(_SILENCE, follower.silence_after(moment))
    arena.outcome.count(f"taken over, {follower.status}")
    if follower.status == "interrupted" and follower.end is not None:
        arena.outcome.check(bool(follower.end.get("retryable")), "an interrupted answer is not marked retryable")
        arena.outcome.check(bool(follower.text), "an answer of which nothing was shown was not run again")
