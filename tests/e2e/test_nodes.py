"""Several processes on one database: readers anywhere, stop from anywhere, crash, zombie, drain (protocol §4–§6)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from nodes import Event, Node, Person, free_port, read_events, text_of

from llmchatbot.database.address import Address

StartNode = Callable[..., Awaitable[Node]]
# The shortest lease that a renewal every half second keeps alive on a busy machine.
QUICK_LEASE = {"LEASE": "2s", "LEASE_RENEWAL": "500ms"}


@pytest.fixture
async def two(start_node: StartNode) -> tuple[Node, Node]:
    first, second = await asyncio.gather(start_node(**QUICK_LEASE), start_node(**QUICK_LEASE))
    return first, second


@pytest.fixture
async def person(two: tuple[Node, Node]) -> AsyncIterator[Person]:
    async with Person(two[0]) as somebody:
        yield somebody


async def query(address: Address, sql: str, *args: Any) -> Any:
    connection = await asyncpg.connect(**address.connect_arguments())
    try:
        return await connection.fetchval(sql, *args)
    finally:
        await connection.close()


async def test_reader_on_another_node_gets_the_same_events(person: Person, two: tuple[Node, Node]) -> None:
    generation = await person.start(await person.chat(), "[[rate=50 tokens=60]]")
    here, there = await asyncio.gather(person.events(generation), person.events(generation, node=two[1]))
    assert [(event.id, dict(event)) for event in here] == [(event.id, dict(event)) for event in there]


async def test_events_reach_another_node_at_once(person: Person, two: tuple[Node, Node]) -> None:
    """Woken by the writer's hint, not by the slow poll of a second."""
    generation = await person.start(await person.chat(), "[[rate=20 tokens=60 stamp=1]]")
    async with person.stream(f"/api/v1/generations/{generation}/stream", node=two[1]) as response:
        delays = [
            time.time() - float(event["content"].rpartition("@")[2])
            async for event in read_events(response)
            if event["type"] == "token" and event.seq > 20
        ]
    assert sorted(delays)[len(delays) // 2] < 0.3


async def test_stop_from_another_node(person: Person, two: tuple[Node, Node]) -> None:
    generation = await person.start(await person.chat(), "[[rate=20 tokens=400]]")
    await person.events(generation, until=5)
    status, receipt = await person.request("POST", f"/api/v1/generations/{generation}/stop", node=two[1])
    assert (status, receipt["status"]) == (200, "stopped")
    events = await person.events(generation)
    assert events[-1].id == receipt["last_event_id"]
    assert len(text_of(events)) == receipt["characters"]


async def test_killed_node_is_taken_over_and_the_text_goes_on(
    person: Person, two: tuple[Node, Node], database: Address
) -> None:
    """The scripted model continues a prefix, so the text equals the uninterrupted one under the same ids."""
    whole = await person.events(await person.start(await person.chat(), "[[rate=0 tokens=120]]"))
    chat = await person.chat()
    generation = await person.start(chat, "[[rate=20 tokens=120]]")
    seen = await person.events(generation, until=20)
    two[0].kill()
    killed = time.monotonic()
    async with person.stream(f"/api/v1/generations/{generation}/stream", last=seen[-1].id, node=two[1]) as response:
        rest: list[Event] = []
        async for event in read_events(response):
            if not rest:
                first_after = time.monotonic() - killed
            rest.append(event)
    events = seen + rest
    assert [event.seq for event in events] == list(range(len(events)))
    assert events[-1]["status"] == "completed"
    assert text_of(events) == events[-1]["content"] == text_of(whole)
    assert first_after < 12
    assert await query(database, "SELECT epoch FROM generations WHERE id = $1", generation) == 2
    assert await query(database, "SELECT count(*) FROM usage WHERE generation_id = $1", generation) == 1


async def test_killed_node_before_the_first_token_is_run_again(person: Person, two: tuple[Node, Node]) -> None:
    generation = await person.start(await person.chat(), "[[first=3 rate=0 tokens=10]]")
    two[0].kill()
    events = await person.events(generation, node=two[1])
    assert events[-1]["status"] == "completed"
    assert [event.seq for event in events] == list(range(len(events)))


async def test_killed_node_with_a_model_that_cannot_continue_is_interrupted(
    start_node: StartNode, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = tmp_path_factory.mktemp("models") / "models.toml"
    models.write_text('[models.once]\nprotocol = "scripted"\ncapabilities = []\n')
    first = await start_node(**QUICK_LEASE, MODELS_FILE=str(models))
    second = await start_node(**QUICK_LEASE, MODELS_FILE=str(models))
    async with Person(first) as person:
        chat = await person.chat()
        generation = await person.start(chat, "[[rate=20 tokens=400]]", model="once")
        seen = await person.events(generation, until=12)
        first.kill()
        rest = await person.events(generation, last=seen[-1].id, node=second)
        assert rest[-1].name == "error"
        assert (rest[-1]["status"], rest[-1]["retryable"]) == ("interrupted", True)
        assert text_of(seen + rest) == rest[-1]["content"]
        person.node = second
        message = (await person.messages(chat))[-1]
        assert (message["status"], message["content"]) == ("interrupted", rest[-1]["content"])


async def test_zombie_is_fenced_and_stops(person: Person, two: tuple[Node, Node], database: Address) -> None:
    """A node that slept through its lease can store nothing any more (I2)."""
    generation = await person.start(await person.chat(), "[[rate=20 tokens=150]]")
    seen = await person.events(generation, until=10)
    two[0].signal(signal.SIGSTOP)
    try:
        rest = await person.events(generation, last=seen[-1].id, node=two[1])
    finally:
        two[0].signal(signal.SIGCONT)
    events = seen + rest
    assert [event.seq for event in events] == list(range(len(events)))
    assert text_of(events) == events[-1]["content"]
    await two[0].wait_ready()
    stored = await person.events(generation)
    assert [(event.id, dict(event)) for event in stored] == [(event.id, dict(event)) for event in events]
    # Under a new id it makes answers again.
    again = await person.events(await person.start(await person.chat(), "[[rate=0 tokens=5]]"))
    assert again[-1]["status"] == "completed"
    assert await query(database, "SELECT count(*) FROM nodes WHERE fenced_at IS NOT NULL") == 1


async def test_sigterm_lets_answers_end_and_sends_readers_elsewhere(person: Person, two: tuple[Node, Node]) -> None:
    generation = await person.start(await person.chat(), "[[rate=40 tokens=100]]")
    seen: list[Event] = []
    async with person.stream(f"/api/v1/generations/{generation}/stream") as response:
        async for event in read_events(response):
            seen.append(event)
            if len(seen) == 5:
                two[0].signal(signal.SIGTERM)
    farewell = seen.pop()
    assert farewell["code"] == "reconnect"
    assert farewell.id == seen[-1].id
    rest = await person.events(generation, last=seen[-1].id, node=two[1])
    assert rest[-1]["status"] == "completed"
    assert [event.seq for event in seen + rest] == list(range(len(seen + rest)))
    assert two[0].process is not None
    assert await asyncio.to_thread(two[0].process.wait, 20) == 0


async def test_drain_refuses_new_sends_and_hands_over_what_takes_too_long(start_node: StartNode) -> None:
    first = await start_node(**QUICK_LEASE, SERVER_DRAIN_TIMEOUT="2s")
    second = await start_node(**QUICK_LEASE)
    async with Person(first) as person:
        chat = await person.chat()
        generation = await person.start(await person.chat(), "[[rate=20 tokens=200]]")
        first.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        status, body = await person.send(chat, "late")
        assert (status, body["code"]) == (503, "draining")
        status, _ = await person.request("GET", "/health/ready")
        assert status == 503
        began = time.monotonic()
        events = await person.events(generation, node=second)
        assert events[-1]["status"] == "completed"
        assert text_of(events) == events[-1]["content"]
        assert [event.seq for event in events] == list(range(len(events)))
        assert time.monotonic() - began < 30
    assert first.process is not None
    assert await asyncio.to_thread(first.process.wait, 20) == 0


async def test_log_out_on_one_node_ends_streams_on_another(person: Person, two: tuple[Node, Node]) -> None:
    generation = await person.start(await person.chat(), "[[rate=5 tokens=400]]")
    async with person.stream(f"/api/v1/generations/{generation}/stream", node=two[1]) as response:
        await anext(read_events(response))
        await person.request("POST", "/api/v1/auth/logout")
        rest = await asyncio.wait_for(response.content.read(), 5)
    assert b"complete" not in rest
    status, _ = await person.request("GET", "/api/v1/chats", node=two[1])
    assert status == 401


async def test_feed_tells_the_other_device_on_the_other_node(person: Person, two: tuple[Node, Node]) -> None:
    async with person.stream("/api/v1/events", node=two[1]) as response:
        events = read_events(response)
        start = await anext(events)
        assert start["type"] == "start"
        chat = await person.chat()
        created = await asyncio.wait_for(anext(events), 3)
        assert (created["type"], created["chat_id"]) == ("chat.created", chat)
        await person.start(chat, "[[rate=0 tokens=3]]")
        kinds = [(await asyncio.wait_for(anext(events), 3))["type"] for _ in range(3)]
    assert "generation.started" in kinds
    assert "generation.ended" in kinds
    async with person.stream("/api/v1/events?wait=0", last=start.id, node=two[0]) as response:
        replay = [event async for event in read_events(response)]
    assert [event["type"] for event in replay] == ["chat.created", *kinds]


async def children_of(pid: int) -> list[int]:
    pgrep = await asyncio.create_subprocess_exec("pgrep", "-P", str(pid), stdout=asyncio.subprocess.PIPE)
    out, _ = await pgrep.communicate()
    return [int(line) for line in out.split()]


async def test_workers_share_a_port_and_one_killed_is_replaced(start_node: StartNode) -> None:
    node = await start_node(**QUICK_LEASE, SERVER_WORKERS="2")
    async with Person(node) as person:
        generation = await person.start(await person.chat(), "[[rate=20 tokens=100]]")
        assert node.process is not None
        # The first worker goes ahead and is ready alone for a moment.
        deadline = asyncio.get_running_loop().time() + 10
        while len(pids := await children_of(node.process.pid)) < 2:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)
        seen: list[Event] = []
        for _ in range(20):
            try:
                seen += await person.events(generation, last=seen[-1].id if seen else None)
            except OSError:
                await asyncio.sleep(0.2)
            if seen and seen[-1]["type"] == "complete":
                break
        assert text_of(seen) == seen[-1]["content"]
        assert await node.stop() == 0


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server: apt-get install redis-server")
async def test_redis_carries_wake_ups_and_may_vanish_at_any_time(start_node: StartNode, tmp_path: Path) -> None:
    port = free_port()

    def start_redis() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
            stdout=subprocess.DEVNULL,
        )

    redis = start_redis()
    try:
        settings = {**QUICK_LEASE, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}
        first, second = await asyncio.gather(start_node(**settings), start_node(**settings))
        async with Person(first) as person:
            _, ready = await person.request("GET", "/health/ready")
            assert ready["parts"]["redis"] == "ok"
            generation = await person.start(await person.chat(), "[[rate=30 tokens=120]]")
            reading = asyncio.create_task(person.events(generation, node=second))
            for _ in range(2):
                await asyncio.sleep(0.7)
                redis.kill()
                redis.wait()
                await asyncio.sleep(0.7)
                redis = start_redis()
            events = await reading
            assert [event.seq for event in events] == list(range(len(events)))
            assert text_of(events) == events[-1]["content"]
            stopped = await person.start(await person.chat(), "[[rate=20 tokens=400]]")
            redis.kill()
            redis.wait()
            status, receipt = await person.request("POST", f"/api/v1/generations/{stopped}/stop", node=second)
            assert (status, receipt["status"]) == (200, "stopped")
    finally:
        redis.kill()
        redis.wait()
