"""Stop, asked of another node than the one that writes, before the first token too."""

from __future__ import annotations

import asyncio

from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.reading import Follower

_LAST_TOKEN = "stop to last token"  # noqa: S105 - a measure, not a secret
_UPSTREAM = "stop to upstream closed"


async def run(arena: Arena) -> None:
    stops = arena.amount(12, 200)
    arena.expect(stops)
    arena.outcome.limit(_LAST_TOKEN, 0.5)
    arena.outcome.limit(_UPSTREAM, 1.0)
    async with arena.people(1) as people:
        for number in range(stops):
            # One at a time: the upstream then knows whose connection was closed.
            await _stop_once(arena, people[0], number, early=number % 4 == 3)
            arena.outcome.count("stops")
            arena.step()


async def _stop_once(arena: Arena, person: Person, number: int, *, early: bool) -> None:
    maker, reader, stopper = arena.rng.sample(arena.urls, 3)
    script = f"{'first=20 ' if early else ''}rate=100 tokens=2000 seed={number + 1}"
    generation_id = await arena.ask(person, script, url=maker, model="upstream", may_end=("stopped",))
    follower = arena.follower(generation_id)
    following = asyncio.create_task(person.follow(follower, url=reader))
    try:
        await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
        loop = asyncio.get_running_loop()
        moment = loop.time()
        closed = asyncio.create_task(_upstream_closed(arena))
        receipt = await person.request("POST", f"/api/v1/generations/{generation_id}/stop", url=stopper)
        arena.outcome.time(_UPSTREAM, await closed - moment)
        await following
    finally:
        following.cancel()
    arena.outcome.time("stop to receipt", receipt.seconds)
    tokens = [time for time in follower.times[:-1] if time > moment]
    arena.outcome.time(_LAST_TOKEN, max(tokens, default=moment) - moment)
    _check_receipt(arena, follower, receipt.status, receipt.body or {})
    again = await person.request("POST", f"/api/v1/generations/{generation_id}/stop", url=maker)
    arena.outcome.check(again.body == receipt.body, f"{generation_id}: the second receipt differs")
    if early:
        arena.outcome.check(not follower.text, f"{generation_id}: text before the first token")
        arena.outcome.count("before the first token")


async def _upstream_closed(arena: Arena) -> float:
    """When the upstream had nobody left to write to."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    # A counter of somebody else's has no event to wait for.
    while arena.cluster.upstream.stats.running and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return loop.time()


def _check_receipt(arena: Arena, follower: Follower, status: int, receipt: dict[str, object]) -> None:
    expected = (200, "stopped", follower.last_id, len(follower.text))
    told = (status, receipt.get("status"), receipt.get("last_event_id"), receipt.get("characters"))
    arena.outcome.check(told == expected, f"{follower.generation_id}: the receipt says {told}, readers saw {expected}")
