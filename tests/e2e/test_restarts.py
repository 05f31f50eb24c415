"""What a client sees of a node that goes, and of trouble that passes (protocol §6)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest
from nodes import Event, Node, Person, read_events
from tests.conftest import PostgresServer

from llmchatbot.database.address import Address

StartNode = Callable[..., Awaitable[Node]]
EVENTS = {"Accept": "text/event-stream"}


async def take_away(postgres: PostgresServer, database: Address) -> None:
    """The database is gone for everybody until it is named back."""
    for _ in range(50):
        await postgres.administrate(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.database}'"
        )
        with contextlib.suppress(asyncpg.ObjectInUseError):
            await postgres.administrate(f'ALTER DATABASE "{database.database}" RENAME TO "{database.database}_away"')
            return
        await asyncio.sleep(0.02)
    raise AssertionError("somebody is always connected")


async def test_reader_that_comes_back_in_an_outage_is_told_to_come_again(
    start_node: StartNode, postgres: PostgresServer, database: Address
) -> None:
    """Not refused, which Chromium's EventSource takes for ever: also when its log-in cannot be looked up any more."""
    node = await start_node()
    async with Person(node) as person:
        generation = await person.start(await person.chat(), "[[rate=10 tokens=300]]")
        seen = await person.events(generation, until=3)
        await take_away(postgres, database)
        try:
            deadline = time.monotonic() + 10
            while (await person.request("GET", "/api/v1/chats"))[1].get("code") != "database_unavailable":
                assert time.monotonic() < deadline
            # The log-in is looked up again every five seconds at the latest; then the door itself has no answer.
            deadline = time.monotonic() + 5.5
            while time.monotonic() < deadline:
                for path in (f"/api/v1/generations/{generation}/stream", "/api/v1/events"):
                    async with person.stream(path, last=seen[-1].id, headers=EVENTS) as response:
                        if response.status == 404:
                            # The feed knows that this place is no place of its own, while it still knows who asks.
                            continue
                        assert response.status == 200, await response.text()
                        notice = await anext(read_events(response))
                        assert (notice["code"], notice.id) == ("reconnect", seen[-1].id)
                        assert not await response.content.read()
                await asyncio.sleep(0.5)
            async with person.stream(f"/api/v1/generations/{generation}/stream") as response:
                assert response.status == 503, "who has seen nothing yet is told the truth"
        finally:
            await postgres.administrate(f'ALTER DATABASE "{database.database}_away" RENAME TO "{database.database}"')
        deadline = time.monotonic() + 10
        rest: list[Event] = []
        while not rest:
            assert time.monotonic() < deadline
            events = await person.events(generation, last=seen[-1].id, until=4)
            rest = [event for event in events if event["type"] == "token"]
        assert rest[0].seq == seen[-1].seq + 1


async def test_reader_over_the_rate_limit_is_told_to_come_again(start_node: StartNode) -> None:
    node = await start_node(REQUESTS_PER_MINUTE="10")
    async with Person(node) as person:
        generation = await person.start(await person.chat(), "[[rate=20 tokens=200]]")
        seen = await person.events(generation, until=3)
        answers = [await person.request("GET", "/api/v1/chats") for _ in range(12)]
        assert answers[-1][0] == 429
        async with person.stream(
            f"/api/v1/generations/{generation}/stream", last=seen[-1].id, headers=EVENTS
        ) as response:
            assert response.status == 200
            notice = await anext(read_events(response))
            assert (notice["code"], notice.id) == ("reconnect", seen[-1].id)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_node_that_goes_answers_or_refuses_and_lets_nobody_wait(start_node: StartNode, workers: str) -> None:
    """A proxy goes elsewhere at once when a connection is refused; in a queue that nobody reads its request waits."""
    node = await start_node(SERVER_WORKERS=workers)
    node.signal(signal.SIGTERM)
    outcomes = []
    assert node.process is not None
    while node.process.poll() is None:
        outcomes.append(await asyncio.to_thread(ask, node.port))
        await asyncio.sleep(0.01)
    assert node.process.returncode == 0
    assert "waited" not in outcomes, outcomes
    assert "refused" in outcomes


def ask(port: int) -> str:
    with socket.socket() as connection:
        connection.settimeout(2)
        try:
            connection.connect(("127.0.0.1", port))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return "answered" if connection.recv(9) else "closed"
        except TimeoutError:
            return "waited"
        except OSError:
            return "refused"


async def test_refused_send_ends_the_connection_that_leads_to_a_draining_node(start_node: StartNode) -> None:
    node = await start_node()
    async with Person(node) as person, aiohttp.ClientSession() as session:
        chat = await person.chat()
        await person.start(await person.chat(), "[[rate=10 tokens=30]]")
        node.signal(signal.SIGTERM)
        status = 0
        while status != 503:
            async with session.get(f"{node.base}/health/ready") as response:
                status = response.status
        async with session.post(
            f"{node.base}/api/v1/chats/{chat}/messages", json={"content": "late"}, headers=person.headers()
        ) as response:
            assert response.status == 503
            assert response.headers["Connection"] == "close"


async def test_draining_node_joins_who_sent_before_and_sends_him_elsewhere(start_node: StartNode) -> None:
    """A native EventSource that lost its first frame repeats its GET: a 503 would close it for good (protocol §6)."""
    node = await start_node()
    async with Person(node) as person:
        chat = await person.chat(model_used="scripted")
        path = f"/api/v1/stream/chat/{chat}?message={quote('[[rate=10 tokens=60]]')}"
        async with person.stream(path) as response:
            generation = response.headers["X-Generation-Id"]
        node.signal(signal.SIGTERM)
        while (await person.request("GET", "/health/ready"))[0] != 503:  # noqa: ASYNC110 - a state of another process
            await asyncio.sleep(0.02)
        async with person.stream(path) as response:
            assert (response.status, response.headers["X-Generation-Id"]) == (200, generation)
            assert '"code":"reconnect"' in await response.text()
        assert (await person.request("GET", path + "x"))[0] == 503


async def test_node_stays_ready_when_a_newer_release_has_migrated_the_database(
    start_node: StartNode, database: Address
) -> None:
    """Otherwise a migration takes every old node out of service before the first new one is there."""
    node = await start_node()
    connection = await asyncpg.connect(**database.connect_arguments())
    try:
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) SELECT max(version) + 1, 'newer', 'x' "
            "FROM schema_migrations"
        )
    finally:
        await connection.close()
    async with aiohttp.ClientSession() as session, session.get(f"{node.base}/health/ready") as response:
        assert response.status == 200, await response.text()
