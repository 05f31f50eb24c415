"""Events may be gone an hour after the end; the message stays, and a reader is told so (protocol §4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
from nodes import Node, Person, text_of

from llmchatbot.database.address import Address

StartNode = Callable[..., Awaitable[Node]]


async def test_compacted_answer_is_a_reset_with_the_whole_text_and_its_end(
    start_node: StartNode, database: Address
) -> None:
    async with Person(await start_node()) as person:
        generation = await person.start(await person.chat(), "[[rate=0 tokens=30]]")
        whole = await person.events(generation)
        connection = await asyncpg.connect(**database.connect_arguments())
        await connection.execute("DELETE FROM generation_events")
        await connection.close()
        # What this process still has in memory would do; another one has nothing.
        async with Person(await start_node()) as other:
            other.token = person.token
            for last in (None, whole[1].id):
                events = await other.events(generation, last=last)
                assert [event["type"] for event in events] == ["reset", "complete"]
                assert text_of(events) == text_of(whole)
                assert events[-1].id == whole[-1].id
                assert events[-1]["sha256"] == whole[-1]["sha256"]
            async with other.stream(f"/api/v1/generations/{generation}/stream", last=whole[-1].id) as response:
                assert response.status == 204
