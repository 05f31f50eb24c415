"""Bugs that other resumable streams had (docs/protocol.md §10), those that no other test here bears the name of."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from nodes import Node, Person

StartNode = Callable[..., Awaitable[Node]]

LARGEST_WRITE = 64 * 1024


async def figure(person: Person, name: str) -> int:
    _, text = await person.request("GET", "/metrics")
    found = re.search(rf"^llmchatbot_{name}(?:\{{.*\}})? ([0-9.]+)$", text.decode(), re.MULTILINE)
    assert found is not None, name
    return int(float(found[1]))


async def until(person: Person, name: str, value: int) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while (now := await figure(person, name)) != value:
        assert asyncio.get_running_loop().time() < deadline, f"{name} is {now}"
        await asyncio.sleep(0.05)


async def test_readers_that_left_leave_nothing_behind(start_node: StartNode) -> None:
    """open-agents #153: subscribers leaked, and a chat stayed marked as active after its answer."""
    async with Person(await start_node()) as person:
        chat = await person.chat()
        generation = await person.start(chat, "[[rate=20 tokens=2000]]")
        for _ in range(3):
            await asyncio.gather(*(person.events(generation, until=2) for _ in range(20)))
        await until(person, "open_streams", 0)
        assert await figure(person, "active_generations") == 1
        await person.request("POST", f"/api/v1/generations/{generation}/stop")
        await until(person, "active_generations", 0)
        again = await person.start(chat, "[[rate=0 tokens=2]]")
        assert (await person.events(again))[-1]["status"] == "completed"


async def test_a_large_backlog_comes_in_bounded_pieces(person: Person) -> None:
    """open-agents #251: the whole backlog was one write, which a slow reader could never take in time."""
    generation = await person.start(await person.chat(), "[[rate=10000 tokens=30000]]")
    await person.events(generation)
    writes = [0]
    async with person.stream(f"/api/v1/generations/{generation}/stream") as response:
        async for data, ends_write in response.content.iter_chunks():
            writes[-1] += len(data)
            if ends_write:
                writes.append(0)
    # The end holds the whole text in one event, and is cut where it lies.
    sizes = [size for size in writes if size]
    assert sum(sizes) > 4 * LARGEST_WRITE
    assert max(sizes) <= LARGEST_WRITE
