"""The eleven faults of the first backend, through a real process, so that none comes back. Proven elsewhere too:

4   test_sending.py, tests/providers/test_protocols.py, tests/local/test_answers.py: the message is read once
6   tests/providers/test_protocols.py: for every protocol
7   test_external_database.py: on a server of somebody else, and where `postgres` is closed
8   tests/handlers/test_auth.py: log-out, rotation, revocation, deactivated accounts; test_matrix.py: at every operation
9   test_logs.py: with canaries in every field, in our log and in PostgreSQL's
10  tests/architecture/test_deploy.py: the image and the compose project, as far as they can be judged without an engine
11  test_health.py: a stopped and a killed database; test_sending.py: archived chats;
    tests/providers: errors of upstreams never carry their words
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
from aiohttp import web
from nodes import Event, Node, Person, database_environment, free_port, text_of
from tests.conftest import PostgresServer, run_apart

from llmchatbot.database.address import Address
from llmchatbot.database.cluster import ROLE

StartNode = Callable[..., Awaitable[Node]]
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0
DATABASE = 'we"ird; name'


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.05)


class Upstream:
    """An LLM service as the first backend had it, that does what the first word of the prompt says."""

    LAST = "x" * 200_000 + " the end"

    def __init__(self) -> None:
        self.written = 0
        self.closed = asyncio.Event()
        self.runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        app = web.Application()
        app.router.add_post("/api/v1/generate/stream", self.generate)
        app.router.add_get("/health", self.health)
        # So that a closed connection cancels the handler, as it stops a model.
        self.runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "model_loaded": True, "device": "cpu"})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        word = (await request.json())["prompt"].split()[0]
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            await self.answer(word, response)
        except (asyncio.CancelledError, ConnectionError):
            self.closed.set()
            raise
        return response

    async def answer(self, word: str, response: web.StreamResponse) -> None:
        for _ in range({"long": 1000, "finish": 300, "huge": 0}.get(word, 3)):
            await self.line(response, type="token", content=f"word{self.written} ")
            await asyncio.sleep(0.005)
        if word == "huge":
            await self.line(response, type="complete", content=self.LAST, tokens=2)
        elif word != "cut":
            await self.line(response, type="complete", content="", tokens=self.written)

    async def line(self, response: web.StreamResponse, **members: Any) -> None:
        await response.write(json.dumps(members).encode() + b"\n")
        self.written += 1


@pytest.fixture(scope="module")
def customer(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, int]]:
    """A node, and the port where it looks for its LLM service."""
    address, port = run_apart(postgres.create()), free_port()
    service = {"LLM_SERVICE_URL": f"http://127.0.0.1:{port}", "LLM_SERVICE_PROTOCOL": "ndjson"}
    node = Node(tmp_path_factory.mktemp("customer"), {**database_environment(address), **service})
    run_apart(node.start())
    yield node, port
    node.end()
    run_apart(postgres.drop(address.database))


@pytest.fixture
async def upstream(customer: tuple[Node, int]) -> AsyncIterator[Upstream]:
    service = Upstream()
    await service.start(customer[1])
    yield service
    assert service.runner is not None
    await service.runner.cleanup()


@pytest.fixture
async def served(customer: tuple[Node, int], upstream: Upstream) -> AsyncIterator[Person]:
    """Somebody whose messages go to `upstream`."""
    async with Person(customer[0]) as somebody:
        yield somebody


async def record_of(person: Person, chat: str, generation: str) -> tuple[str, str, bool]:
    """What the generation says, what its message says, and whether that is incomplete."""
    _, state = await person.request("GET", f"/api/v1/generations/{generation}")
    message = next(entry for entry in await person.messages(chat) if entry["id"] == state["message_id"])
    return state["status"], message["status"], message["is_incomplete"]


def end_of(events: list[Event]) -> str:
    """The one end of a stream: its status."""
    ends = [event for event in events if event["type"] in {"complete", "error"}]
    assert ends == events[-1:]
    assert (ends[0]["type"] == "complete") == (ends[0]["status"] in {"completed", "stopped"})
    status: str = ends[0]["status"]
    return status


ENDINGS = [("cut@8", "interrupted"), ("noend", "interrupted"), ("refuse", "failed"), ("error@8", "interrupted")]


async def test_fault_1_finished_and_failed_are_never_confused(start_node: StartNode) -> None:
    """Endings that come at the very moment of the last token, each told alike in three places, by two readers at once.

    On a process of its own, and each fault among good answers: the breaker would refuse an upstream that mostly fails.
    """
    async with Person(await start_node()) as person:
        for fault, failing in ENDINGS:
            for script, expected in (*[("", "completed")] * 5, (f"fault={fault}", failing), ("", "completed")):
                chat = await person.chat()
                generation = await person.start(chat, f"[[rate=0 tokens=8 {script}]]")
                readers = await asyncio.gather(*(person.events(generation) for _ in range(2)))
                assert [end_of(events) for events in readers] == [expected] * 2, script
                assert await record_of(person, chat, generation) == (expected, expected, expected != "completed")


async def test_fault_1_a_stop_at_the_last_moment_is_either_stopped_or_finished(person: Person) -> None:
    chat = await person.chat()
    for pause in (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15):
        generation = await person.start(chat, "[[rate=200 tokens=20]]")
        await asyncio.sleep(pause)  # not to wait for something: the moment is what varies
        _, receipt = await person.request("POST", f"/api/v1/generations/{generation}/stop")
        events = await person.events(generation)
        status = end_of(events)
        assert status in {"stopped", "completed"}
        assert (receipt["status"], receipt["last_event_id"]) == (status, events[-1].id)
        assert await record_of(person, chat, generation) == (status, status, status == "stopped")


async def test_fault_2_a_closed_tab_does_not_stop_the_model(served: Person, upstream: Upstream) -> None:
    chat = await served.chat()
    generation = await served.start(chat, "finish", model="default")
    assert len(await served.events(generation, until=3)) == 3
    assert end_of(await served.events(generation)) == "completed"
    assert not upstream.closed.is_set()
    assert (await served.messages(chat))[-1]["content"].split() == [f"word{number}" for number in range(300)]


async def test_fault_2_stop_stops_the_model_and_keeps_the_text(served: Person, upstream: Upstream) -> None:
    chat = await served.chat()
    generation = await served.start(chat, "long", model="default")
    seen = text_of(await served.events(generation, until=6))
    status, _ = await served.request("POST", f"/api/v1/generations/{generation}/stop")
    assert status == 200
    await asyncio.wait_for(upstream.closed.wait(), DEADLINE)
    assert upstream.written < 1000
    assert await record_of(served, chat, generation) == ("stopped", "stopped", True)
    kept = (await served.messages(chat))[-1]["content"]
    assert kept.startswith(seen)
    assert kept == text_of(await served.events(generation))


async def test_fault_3_an_answer_cut_off_upstream_is_not_complete(served: Person) -> None:
    chat = await served.chat()
    generation = await served.start(chat, "cut", model="default")
    assert end_of(await served.events(generation)) == "interrupted"
    assert await record_of(served, chat, generation) == ("interrupted", "interrupted", True)
    assert (await served.messages(chat))[-1]["content"].split() == ["word0", "word1", "word2"]


async def test_fault_5_numbers_are_dense_and_a_chat_has_one_answer_at_a_time(
    start_node: StartNode, database: Address
) -> None:
    """Twenty senders at once through two processes; and the tables refuse what a faulty program would write."""
    first, second = await asyncio.gather(start_node(), start_node())
    async with Person(first) as person:
        chat = await person.chat()
        answers = await asyncio.gather(
            *(person.send(chat, f"[[first=50 tokens=1]] {n}", node=(first, second)[n % 2]) for n in range(20))
        )
        assert sorted(status for status, _ in answers) == [201] + [409] * 19
        (generation,) = (body["generation"]["id"] for status, body in answers if status == 201)
        await person.request("POST", f"/api/v1/generations/{generation}/stop")
        running = await person.start(chat, "[[first=50 tokens=1]]")
        assert [message["sequence_number"] for message in await person.messages(chat)] == [1, 2, 3, 4]
        connection = await asyncpg.connect(**database.connect_arguments())
        with pytest.raises(asyncpg.UniqueViolationError, match="generations_one_active_per_chat"):
            await connection.execute(
                "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, status) "
                "SELECT $2, user_id, chat_id, $3, user_message_id, model, 'queued' FROM generations WHERE id = $1",
                *(running, uuid4(), uuid4()),
            )
        with pytest.raises(asyncpg.UniqueViolationError, match="messages_sequence_key"):
            await connection.execute(
                "INSERT INTO messages (id, chat_id, user_id, sequence_number, role) "
                "SELECT $2, chat_id, user_id, 4, 'user' FROM messages WHERE chat_id = $1 LIMIT 1",
                *(chat, uuid4()),
            )
        await connection.close()


async def test_fault_6_a_last_line_over_64_kib_arrives_whole(served: Person, upstream: Upstream) -> None:
    chat = await served.chat()
    events = await served.events(await served.start(chat, "huge", model="default"))
    assert end_of(events) == "completed"
    assert text_of(events) == upstream.LAST
    assert (await served.messages(chat))[-1]["content"] == upstream.LAST


def test_fault_10_there_are_an_image_a_compose_file_and_tests_of_them() -> None:
    assert "AS backend" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "services:" in (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert "def test_" in (ROOT / "tests" / "architecture" / "test_deploy.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Path]]:
    """A node with an embedded PostgreSQL of its own, a database with an awkward name, and a talkative log."""
    folder = tmp_path_factory.mktemp("alone")
    node = Node(folder, {"DB_NAME": DATABASE, "LOG_LEVEL": "debug", "DATA_DIR": str(folder / "data")})
    run_apart(node.start())
    yield node, folder / "data"
    node.end()


async def test_fault_7_the_database_is_made_whatever_its_name(alone: tuple[Node, Path]) -> None:
    async with Person(alone[0]) as person:
        await person.events(await person.start(await person.chat(), "[[rate=0 tokens=3]]"))
    lines = (alone[1] / "postgres" / "postmaster.pid").read_text().splitlines()
    address = Address(host=lines[4], port=int(lines[3]), user=ROLE, database=DATABASE, sslmode="disable")
    connection = await asyncpg.connect(**address.connect_arguments())
    assert await connection.fetchval("SELECT current_database()") == DATABASE
    assert await connection.fetchval("SELECT count(*) FROM messages") >= 2
    await connection.close()


async def test_fault_9_texts_passwords_and_tokens_are_in_no_log(alone: tuple[Node, Path]) -> None:
    node, data = alone
    canary = f"canary{uuid4().hex}"
    async with Person(node) as person:
        secrets = [canary, person.token, person.refresh_token]
        account = {"email": "ada@ada.example", "username": "ada", "password": f"{canary} password"}
        for _ in range(2):  # the second one runs into a unique index
            await person.request("POST", "/api/v1/auth/register", account)
        for password in (account["password"], f"{canary} wrong"):
            _, answer = await person.request(
                "POST", "/api/v1/auth/login", {"email": account["email"], "password": password}
            )
            secrets += [answer[name] for name in ("access_token", "refresh_token") if name in answer]
        chat = await person.chat(model_used="scripted", title=f"{canary} title")
        generation = await person.start(chat, f"[[rate=0 tokens=3]] {canary} posted")
        await person.events(generation)
        await person.events(await person.start(chat, f"[[fault=error]] {canary} fails"))
        await person.send(chat, f"{canary} \x00")
        async with person.stream(f"/api/v1/stream/chat/{chat}?message={quote(canary)}") as response:
            assert response.status == 200
            await response.read()
        await person.request("GET", f"/api/v1/search?q={canary}")
        await person.request("GET", f"/api/v1/no/such/{canary}?message={canary}")
        await person.request("GET", f"/api/v1/chats?access_token={canary}")
        _, ticket = await person.request("POST", f"/api/v1/generations/{generation}/ticket")
        secrets.append(ticket["ticket"])
        async with person.session.get(node.base + ticket["stream_url"]) as response:
            assert response.status == 200
        _, renewed = await person.request("POST", "/api/v1/auth/refresh", {"refresh_token": person.refresh_token})
        secrets += [renewed["access_token"], renewed["refresh_token"]]
    logs = {"the node's": node.log(), "PostgreSQL's": (data / "postgres.log").read_text(errors="replace")}
    assert "/api/v1/chats" in logs["the node's"]
    for name, text in logs.items():
        for line in text.splitlines():
            assert not any(secret in line for secret in secrets), f"{name} log: {line}"


async def test_fault_11_health_is_honest(alone: tuple[Node, Path]) -> None:
    """Without its database a process lives and says that it should get no requests; then it is well again by itself."""
    node, data = alone
    server = int((data / "postgres" / "postmaster.pid").read_text().split()[0])
    watchdog = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    async with Person(node) as person:

        async def ready() -> bool:
            return (await person.request("GET", "/health/ready"))[0] == 200

        async def not_ready() -> bool:
            return not await ready()

        assert await ready()
        # The shell that would report the end is held, so that the outage lasts as long as we look.
        os.kill(watchdog, signal.SIGSTOP)
        try:
            os.kill(server, signal.SIGQUIT)
            await until(not_ready, "/health/ready says 503")
            status, readiness = await person.request("GET", "/health/ready")
            assert (status, readiness["ready"], readiness["parts"]["database"]) == (503, False, "failed")
            assert (await person.request("GET", "/health"))[0] == 200
            status, problem = await person.request("GET", "/api/v1/chats")
            assert (status, problem["code"]) == (503, "database_unavailable")
        finally:
            os.kill(watchdog, signal.SIGCONT)
        await until(ready, "/health/ready says 200 again")
        assert (await person.request("GET", "/api/v1/chats"))[0] == 200
