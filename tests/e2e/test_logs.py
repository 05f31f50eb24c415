"""Fault 9: what people write, and what opens their account, stands in no log: not in ours, not in PostgreSQL's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from nodes import Node, Person
from tests.conftest import PostgresServer

from llmchatbot.observability import describe, trace_of

StartNode = Callable[..., Awaitable[Node]]
# In several scripts, and with what percent-encoding changes.
CANARY = "Kanarienvogel канарейка 金丝雀"
ALSO_AS = (CANARY, quote(CANARY), CANARY.replace(" ", "+"), CANARY.split(maxsplit=1)[0], json.dumps(CANARY)[1:-1])


async def postgres_log(postgres: PostgresServer) -> str:
    connection = await asyncpg.connect(**postgres.address.connect_arguments())
    try:
        folder = Path(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()
    return (folder.parent / "postgres.log").read_text(errors="replace")


async def write_everywhere(person: Person) -> None:
    """The canary in every field that takes text, where it is accepted and where it is refused."""
    chat = await person.chat(title=CANARY, parameters={"system_prompt": CANARY})
    generation = await person.start(chat, f"{CANARY} [[rate=0 tokens=3]]")
    await person.events(generation)
    async with person.stream(f"/api/v1/stream/chat/{chat}?message={quote(CANARY)}%20[[rate=0 tokens=3]]") as response:
        await response.read()
        assert response.status == 200
    refused = [
        ("POST", f"/api/v1/chats/{chat}/messages", {"content": CANARY * 2000}, 400),
        ("POST", f"/api/v1/chats/{chat}/messages", {"content": CANARY + "\x00"}, 422),
        ("POST", f"/api/v1/chats/{chat}/messages", {"content": CANARY, "no_such_field": CANARY}, 400),
        ("POST", f"/api/v1/chats/{chat}/messages", {"content": CANARY, "model": CANARY}, 404),
        ("PUT", f"/api/v1/chats/{chat}", {"title": CANARY * 20}, 400),
        ("GET", f"/api/v1/search?q={quote(CANARY)}", None, 200),
        ("GET", f"/api/v1/{quote(CANARY)}", None, 404),
        ("GET", f"/api/v1/chats?access_token={quote(CANARY)}", None, 400),
        ("GET", f"/api/v1/chats?cursor={quote(CANARY[:20])}", None, 400),
    ]
    for method, path, body, status in refused:
        assert (await person.request(method, path, body))[0] == status, path
    async with person.session.post(
        f"{person.node.base}/api/v1/chats",
        data=f'{{"title": "{CANARY}'.encode(),
        headers=person.headers(**{"Content-Type": "application/json"}),
    ) as response:
        assert response.status == 400


async def log_in_and_fail(person: Person) -> list[str]:
    """Returns the secrets that went over the wire."""
    password = f"{CANARY} 1"
    account = {"email": "canary@example.com", "username": "Ada", "password": password}
    status, granted = await person.request("POST", "/api/v1/auth/register", account)
    assert status == 201
    wrong = {"email": "canary@example.com", "password": f"{CANARY} 2"}
    assert (await person.request("POST", "/api/v1/auth/login", wrong))[0] == 401
    assert (await person.request("POST", "/api/v1/auth/register", account))[0] == 409
    status, refreshed = await person.request(
        "POST", "/api/v1/auth/refresh", {"refresh_token": granted["refresh_token"]}
    )
    assert status == 200
    generation = await person.start(await person.chat(), "[[rate=0 tokens=3]]")
    _, ticket = await person.request("POST", f"/api/v1/generations/{generation}/ticket")
    token, person.token = person.token, ""
    async with person.stream(ticket["stream_url"]) as response:
        assert response.status == 200
        await response.read()
    person.token = f"{token}x"
    assert (await person.request("GET", "/api/v1/chats"))[0] == 401
    person.token = token
    secrets = [granted["access_token"], granted["refresh_token"], refreshed["access_token"], refreshed["refresh_token"]]
    return [*secrets, ticket["ticket"], person.token, person.refresh_token]


async def test_fault_9_no_text_and_no_secret_in_any_log(person: Person, postgres: PostgresServer) -> None:
    await write_everywhere(person)
    secrets = await log_in_and_fail(person)
    for name, log in (("ours", person.node.log()), ("PostgreSQL's", await postgres_log(postgres))):
        found = [text for text in (*ALSO_AS, *secrets) if text in log]
        assert not found, name
    assert "/api/v1/chats/{chat_id}/messages" in person.node.log()


async def test_every_request_has_one_line_with_template_status_and_id(person: Person) -> None:
    chat = await person.chat()
    async with person.session.get(f"{person.node.base}/api/v1/chats/{chat}", headers=person.headers()) as response:
        request_id = response.headers["X-Request-Id"]
    lines = await lines_with(person.node, request_id)
    assert len(lines) == 1
    assert re.search(r"GET /api/v1/chats/\{chat_id\} 200 \d+\.\d ms", lines[0])
    assert chat not in lines[0]


async def lines_with(node: Node, text: str) -> list[str]:
    """The line is written when the answer has gone out, so it may be a moment behind."""
    async with asyncio.timeout(5):
        while True:
            if lines := [line for line in node.log().splitlines() if text in line]:
                return lines
            await asyncio.sleep(0.01)


async def test_logs_for_machines_are_json_with_the_request(start_node: StartNode) -> None:
    node = await start_node(LOG_FORMAT="json")
    async with Person(node) as person:
        headers = person.headers(**{"X-Request-Id": "from-a-proxy-1"})
        async with person.session.get(f"{node.base}/api/v1/chats", headers=headers) as response:
            assert response.headers["X-Request-Id"] == "from-a-proxy-1"
    (line,) = await lines_with(node, "from-a-proxy-1")
    entry = json.loads(line)
    assert entry["request"] == "from-a-proxy-1"
    assert entry["message"].startswith("GET /api/v1/chats 200 ")
    assert {"time", "level", "logger"} <= entry.keys()


def raise_nested() -> None:
    try:
        try:
            int(CANARY)
        except ValueError as error:
            raise RuntimeError(CANARY) from error
    except RuntimeError as error:
        raise ExceptionGroup(CANARY, [error, KeyError(CANARY)]) from None


def test_traces_show_places_and_types_and_no_texts() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        raise_nested()
    trace = trace_of(caught.value)
    assert CANARY not in trace
    for part in ("ExceptionGroup", "RuntimeError", "KeyError", "ValueError", "raise_nested", "which led to"):
        assert part in trace


def test_what_is_ours_or_the_systems_is_shown() -> None:
    assert describe(FileNotFoundError(2, "No such file or directory")).endswith("No such file or directory")
    assert CANARY not in describe(asyncpg.UniqueViolationError(CANARY))
    assert "23505" in describe(asyncpg.UniqueViolationError(CANARY))
