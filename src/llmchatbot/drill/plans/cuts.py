"""Readers whose connections are broken after any number of bytes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.proxy import Fault, FaultProxy
from llmchatbot.drill.reading import Follower

_READERS = 3
_CUTS_EACH = 20
# Within the head, within the first events, somewhere, and within the last event, which holds the whole text.
_REACHES = (300, 700, 2500, 20_000)
_LONGEST_RECONNECT = 1.0


class _Reading:
    """What the readers of one answer share."""

    def __init__(self, arena: Arena, person: Person, proxies: list[str]) -> None:
        self.arena = arena
        self.person = person
        self.proxies = proxies
        # The newest event that any of them has seen: what lies below is replayed, not waited for.
        self.newest = -1


async def run(arena: Arena) -> None:
    total = arena.amount(500, 10_000, deployment=60)
    arena.expect(total)
    if arena.own:
        arena.outcome.limit("reconnect to first replayed event", _LONGEST_RECONNECT)
    answers = -(-total // (_READERS * _CUTS_EACH))
    async with AsyncExitStack() as stack:
        people = await stack.enter_async_context(arena.people(1))
        proxies = [await stack.enter_async_context(await _proxy(arena, target)) for target in arena.targets]
        urls = [proxy.url for proxy in proxies]
        jobs = [_answer(arena, people[0], urls, number) for number in range(answers)]
        await arena.together(jobs, at_once=6 if arena.own else 2)
        counts = sum((proxy.counts for proxy in proxies), Counter())
    for what in ("at id", "at escape", "at frame", "stall"):
        arena.outcome.count(what, counts[what])


async def _proxy(arena: Arena, target: tuple[str, int]) -> FaultProxy:
    return FaultProxy([target], tls=arena.tls)


async def _answer(arena: Arena, person: Person, proxies: list[str], number: int) -> None:
    """One answer, and all its readers from the first event on."""
    script = f"rate=250 tokens=500 seed={number + 1}"
    generation_id = await arena.ask(person, script, url=arena.rng.choice(arena.urls))
    shared = _Reading(arena, person, proxies)
    seeds = [arena.rng.random() for _ in range(_READERS)]
    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(_reader(shared, generation_id, random.Random(seed)))  # noqa: S311 - to be repeated


async def _reader(shared: _Reading, generation_id: str, rng: random.Random) -> None:
    """Reads to the end, and again from the beginning, until it was cut as often as planned."""
    cuts = 0
    while cuts < _CUTS_EACH:
        follower = shared.arena.follower(generation_id)
        while not follower.ended:
            fault = Fault.of(rng, rng.choice(_REACHES)) if cuts < _CUTS_EACH else Fault()
            breaks = fault.kind in {"cut", "reset"}
            began = asyncio.get_running_loop().time()
            before = len(follower.times)
            replayed = follower.seq < shared.newest
            status = await shared.person.read(follower, url=rng.choice(shared.proxies), fault=fault)
            if status not in {0, 200}:
                shared.arena.outcome.violate(f"status {status} for a reader of {generation_id}")
                return
            if replayed and len(follower.times) > before:
                shared.arena.outcome.time("reconnect to first replayed event", follower.times[before] - began)
            shared.newest = max(shared.newest, follower.seq)
            if breaks and not follower.ended:
                cuts += 1
                shared.arena.step()
                shared.arena.outcome.count("cuts")
        _check_end(shared.arena, follower)


def _check_end(arena: Arena, follower: Follower) -> None:
    arena.outcome.count("readings")
    arena.outcome.check(follower.status == "completed", f"{follower.generation_id} ended as '{follower.status}'")
    arena.outcome.check(not follower.resets, f"{follower.generation_id}: a reset for a reader that was only cut")
