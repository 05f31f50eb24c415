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


async def test_compacted_answer_that_failed_ends_in_its_error_again(start_node: StartNode, database: Address) -> None:
    """`complete` is for what was completed or stopped; whoever reads late must not take a failure for success."""
    async with Person(await start_node()) as person:
        generation = await person.start(await person.chat(), "[[rate=0 tokens=30 fault=cut@10]]")
        whole = await person.events(generation)
        connection = await asyncpg.connect(**database.connect_arguments())
        await connection.execute("DELETE FROM generation_events")
        await connection.close()
        async with Person(await start_node()) as other:
            other.token = person.token
            events = await other.events(generation)
        assert [event["type"] for event in events] == ["reset", "error"]
        assert events[-1].name == "error"
        assert events[-1].id == whole[-1].id
        same = ("status", "code", "retryable", "content")
        assert [events[-1][name] for name in same] == [whole[-1][name] for name in same]


async def test_cursor_beyond_the_end_gets_the_end_that_is_stored(start_node: StartNode) -> None:
    """I3 for the last event too: under one number there are never two different ones."""
    async with Person(await start_node()) as person:
        generation = await person.start(await person.chat(), "[[rate=0 tokens=30 fault=cut@10]]")
        whole = await person.events(generation)
        events = await person.events(generation, last=f"{generation}.99999")
    assert events[0]["type"] == "reset"
    assert (events[-1].id, events[-1].name, dict(events[-1])) == (whole[-1].id, whole[-1].name, dict(whole[-1]))
