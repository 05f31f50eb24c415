"""kill -9 of nodes that make answers, while their readers sit at others."""

from __future__ import annotations

import asyncio

import msgspec

from llmchatbot.drill.apart import apart
from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.processes import NodeProcess
from llmchatbot.drill.reading import Follower

_SILENCE = "kill to next event"
# A takeover takes as long as a lease, so many kills are made in waves: so many nodes die within two seconds, sooner
# than any of them could take over the answers of another, and the rest goes on with what all of them had in hand.
_WAVE = 6
_SURVIVORS = 2
_WORTH_A_CLUSTER = 20


class _Watched(msgspec.Struct):
    """A reader of an answer whose node was killed; `waits` when its model says nothing for a while anyhow."""

    follower: Follower
    killed: float
    waits: bool


async def run(arena: Arena) -> None:
    kills = arena.amount(3, 200)
    arena.expect(kills)
    arena.outcome.limit(_SILENCE, arena.pace.takeover)
    if kills < _WORTH_A_CLUSTER:
        await _kill(arena, kills, at_once=1)
        return
    async with apart(arena, nodes=_WAVE + _SURVIVORS) as inner:
        await _kill(inner, kills, at_once=_WAVE)


async def _kill(arena: Arena, kills: int, *, at_once: int) -> None:
    async with arena.people(1) as people:
        for first in range(0, kills, at_once):
            victims = arena.rng.sample(arena.cluster.nodes, min(at_once, kills - first))
            others = [node for node in arena.cluster.nodes if node not in victims]
            watched: list[_Watched] = []
            async with asyncio.TaskGroup() as group:
                for number, victim in enumerate(victims, first):
                    group.create_task(_kill_once(arena, people[0], number, victim, others, watched))
            for one in watched:
                _judge(arena, one)


async def _kill_once(
    arena: Arena, person: Person, kill: int, victim: NodeProcess, others: list[NodeProcess], watched: list[_Watched]
) -> None:
    """Returns when all answers have their end and the node is there again."""
    loop = asyncio.get_running_loop()
    delay = arena.rng.uniform(0.05, 2.0)
    readers = [arena.rng.choice(others).url for _ in range(4)]
    made: list[_Watched] = []
    async with asyncio.TaskGroup() as group:
        for (model, script), reader in zip(_scripts(kill), readers, strict=True):
            may_end = ("completed", "interrupted") if model == "plain" else ("completed",)
            generation_id = await arena.ask(person, script, url=victim.url, model=model, may_end=may_end)
            follower = arena.follower(generation_id)
            made.append(_Watched(follower, 0.0, script.startswith("first=")))
            group.create_task(person.follow(follower, url=reader))
        await asyncio.sleep(delay)
        for one in made:
            one.killed = loop.time()
        victim.kill()
        victim.spawn()
    watched += made
    await victim.wait_ready()
    arena.outcome.count("kills")
    arena.step()


def _scripts(kill: int) -> list[tuple[str, str]]:
    """Two that others go on with, one whose text cannot be continued, one that was not begun yet."""
    return [
        ("scripted", f"rate=150 tokens=450 seed={4 * kill + 1}"),
        ("upstream", f"rate=120 tokens=400 seed={4 * kill + 2}"),
        ("plain", f"rate=150 tokens=450 seed={4 * kill + 3}"),
        ("plain", f"first=2.5 rate=200 tokens=100 seed={4 * kill + 4}"),
    ]


def _judge(arena: Arena, watched: _Watched) -> None:
    follower = watched.follower
    if follower.times and follower.times[-1] <= watched.killed:
        arena.outcome.count("ended before the kill")
        return
    if not watched.waits:
        arena.outcome.time(_SILENCE, follower.silence_after(watched.killed))
    arena.outcome.count(f"taken over, {follower.status}")
    if follower.status == "interrupted" and follower.end is not None:
        arena.outcome.check(bool(follower.end.get("retryable")), "an interrupted answer is not marked retryable")
        arena.outcome.check(bool(follower.text), "an answer of which nothing was shown was not run again")
