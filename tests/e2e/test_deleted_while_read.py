"""A chat that is deleted for good while its answer is made: every reader's stream ends, on every process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nodes import Node, Person, read_events

StartNode = Callable[..., Awaitable[Node]]


async def test_deleting_a_chat_for_good_ends_its_streams_on_every_node(start_node: StartNode) -> None:
    first, second = await asyncio.gather(start_node(), start_node())
    async with Person(first) as person:
        chat = await person.chat()
        generation = await person.start(chat, "[[rate=20 tokens=2000]]")
        async with person.stream(f"/api/v1/generations/{generation}/stream", node=second) as response:
            events = read_events(response)
            await anext(events)
            async with person.session.delete(
                f"{first.base}/api/v1/chats/{chat}/permanent", headers=person.headers()
            ) as deleted:
                assert deleted.status == 200
            async with asyncio.timeout(10):
                async for _ in events:
                    pass
        async with person.stream(f"/api/v1/generations/{generation}/stream", node=second) as response:
            assert response.status == 404
