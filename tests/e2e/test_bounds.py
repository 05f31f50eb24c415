"""Bounds of protocol §2, §6, §7 and §8 that only a process with small numbers shows: time, size, life."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from nodes import Node, Person, database_environment, text_of
from tests.conftest import PostgresServer, run_apart

from llmchatbot.database.address import Address

ANSWER_BYTES = 5_000


@pytest.fixture(scope="module")
def strict(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Address]]:
    address = run_apart(postgres.create())
    node = Node(
        tmp_path_factory.mktemp("bounds"),
        {
            **database_environment(address),
            "SERVER_REQUEST_TIMEOUT": "1s",
            "DB_STATEMENT_TIMEOUT": "20s",
            "MAX_ANSWER_BYTES": str(ANSWER_BYTES),
            "MAX_ANSWER_TIME": "1s",
            "STREAM_TICKET_LIFETIME": "2s",
        },
    )
    run_apart(node.start())
    yield node, address
    node.end()
    run_apart(postgres.drop(address.database))


@pytest.fixture
async def visitor(strict: tuple[Node, Address]) -> AsyncIterator[Person]:
    async with Person(strict[0]) as somebody:
        yield somebody


@pytest.fixture
async def operator(strict: tuple[Node, Address]) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(**strict[1].connect_arguments())
    yield connection
    await connection.close()


async def test_a_route_that_takes_too_long_is_503_in_time(
    visitor: Person, operator: asyncpg.Connection[asyncpg.Record]
) -> None:
    """§8: a normal route has ten seconds, here one; the statement that it waits for has more."""
    chat = await visitor.chat(title="before")
    async with operator.transaction():
        await operator.execute("SELECT FROM chats WHERE id = $1 FOR UPDATE", chat)
        began = time.monotonic()
        status, problem = await visitor.request("PUT", f"/api/v1/chats/{chat}", {"title": "after"})
        assert time.monotonic() - began < 3
        assert (status, problem["code"]) == (503, "request_timeout")
    _, read = await visitor.request("GET", f"/api/v1/chats/{chat}")
    assert read["title"] == "before"


async def test_a_stop_is_no_normal_route(visitor: Person, operator: asyncpg.Connection[asyncpg.Record]) -> None:
    """§6: the receipt comes after the upstream was closed and the end stored, however long that takes."""
    chat = await visitor.chat()
    generation = await visitor.start(chat, "[[rate=20 tokens=15]]")
    await visitor.events(generation, until=4)
    async with operator.transaction():
        await operator.execute("SELECT FROM chats WHERE id = $1 FOR UPDATE", chat)
        stopping = asyncio.create_task(visitor.request("POST", f"/api/v1/generations/{generation}/stop"))
        done, _ = await asyncio.wait([stopping], timeout=1.5)
        assert not done
    status, receipt = await stopping
    assert (status, receipt["status"]) == (200, "stopped")


@pytest.mark.parametrize("script", ["[[rate=0 tokens=5000]]", "[[rate=20 tokens=500]]"], ids=["bytes", "time"])
async def test_an_answer_ends_at_its_limit_and_keeps_its_text(visitor: Person, script: str) -> None:
    """§6, §8: so many bytes and so much time; what was shown is kept, and it is not called complete."""
    chat = await visitor.chat()
    began = time.monotonic()
    events = await visitor.events(await visitor.start(chat, script))
    assert time.monotonic() - began < 5
    assert (events[-1]["type"], events[-1]["code"], events[-1]["status"]) == ("error", "answer_too_long", "interrupted")
    kept = (await visitor.messages(chat))[-1]
    assert kept["is_incomplete"]
    assert kept["content"] == text_of(events) == events[-1]["content"]
    assert 0 < len(kept["content"].encode()) <= ANSWER_BYTES


async def test_a_key_counts_for_24_hours(visitor: Person, operator: asyncpg.Connection[asyncpg.Record]) -> None:
    chat = await visitor.chat()
    first = await visitor.start(chat, "[[rate=0 tokens=2]]", request_id="once")
    await visitor.events(first)
    assert await visitor.start(chat, "[[rate=0 tokens=2]]", request_id="once") == first
    left = await operator.fetchval("SELECT expires_at - now() FROM idempotency_keys WHERE chat_id = $1", chat)
    assert 24 * 3600 - 60 < left.total_seconds() <= 24 * 3600
    await operator.execute("UPDATE idempotency_keys SET expires_at = now() WHERE chat_id = $1", chat)
    second = await visitor.start(chat, "[[rate=0 tokens=2]]", request_id="once")
    assert second != first
    await visitor.events(second)
    assert await visitor.start(chat, "[[rate=0 tokens=2]]", request_id="once") == second


async def test_a_ticket_lives_for_its_time_and_only_its_hash_is_stored(
    visitor: Person, operator: asyncpg.Connection[asyncpg.Record]
) -> None:
    generation = await visitor.start(await visitor.chat(), "[[rate=0 tokens=2]]")
    await visitor.events(generation)
    _, issued = await visitor.request("POST", f"/api/v1/generations/{generation}/ticket")
    stored = await operator.fetchval("SELECT hash FROM stream_tickets WHERE generation_id = $1", generation)
    assert stored == hashlib.sha256(issued["ticket"].encode()).digest()
    address = visitor.node.base + issued["stream_url"]
    deadline = time.monotonic() + 10
    statuses = []
    while time.monotonic() < deadline and 401 not in statuses:
        async with visitor.session.get(address) as response:
            statuses.append(response.status)
        await asyncio.sleep(0.1)
    assert statuses[0] == 200
    assert statuses[-1] == 401
