"""Two people and every operation of the served document: what belongs to one does not exist for the other."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from nodes import JWT_SECRET, Node, Person, database_environment
from tests.conftest import PostgresServer, run_apart

from llmchatbot import main
from llmchatbot.database.address import Address
from llmchatbot.handlers import docs, health, metrics, pages
from llmchatbot.security import AccessClaims, TokenKeys, sign_access_token

METHODS = ("get", "put", "post", "delete", "patch")
# Whatever is not here asks for a bearer token. A new line in this list is a decision, not a slip.
PUBLIC = {
    "post /api/v1/auth/register",
    "post /api/v1/auth/login",
    "post /api/v1/auth/guest",
    "post /api/v1/auth/refresh",
    "post /api/v1/auth/logout",
    "get /health",
    "get /health/ready",
}
# Not in the document: for browsers, monitors and scrapers; /metrics has a token of its own.
PUBLIC_PAGES = {"/", "/favicon.ico", "/assets/{path:path}", "/openapi.json", "/docs", "/metrics", "/health"}
# Bodies with which the operation would do something, were the path somebody's own.
BODIES: dict[str, Any] = {
    "updateMe": {"username": "taken over"},
    "changePassword": {"current_password": "correct horse 1", "new_password": "correct horse 2"},
    "upgradeGuest": {"email": "taken@over.example", "username": "taken", "password": "correct horse 2"},
    "createChat": {"title": "not to be made"},
    "updateChat": {"title": "taken over"},
    "sendMessage": {"content": "[[rate=0 tokens=1]]", "model": "scripted"},
}
QUERIES = {"streamChat": "?message=[[rate=0%20tokens=1]]", "search": "?q=secret"}
TABLES = ("chats", "messages", "generations", "device_sessions", "stream_tickets", "user_events")


class Operation(msgspec.Struct, frozen=True):
    name: str
    method: str
    path: str

    @property
    def ids(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)

    def request(self, ids: dict[str, str]) -> tuple[str, str, Any]:
        """Method, target and body, with these ids in the path and in the body."""
        body = BODIES.get(self.name)
        if self.name in {"restoreChats", "deleteChats"}:
            body = {"ids": [ids["chat_id"]]}
        elif self.name == "setChatLeaf":
            body = {"message_id": ids["message_id"]}
        return self.method.upper(), self.path.format(**ids) + QUERIES.get(self.name, ""), body


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield Operation(item[method]["operationId"], method, path)


class Estate:
    """A node, somebody with one of everything on it, and a direct look at the tables."""

    def __init__(self, owner: Person, database: asyncpg.Connection[Any], document: dict[str, Any]) -> None:
        self.owner = owner
        self.database = database
        self.all = list(operations(document))
        self.closed = [entry for entry in self.all if f"{entry.method} {entry.path}" not in PUBLIC]
        self.ids: dict[str, str] = {}

    async def settle(self) -> None:
        """One of everything, and an answer that is still being made."""
        chat = await self.owner.chat(title="secret plans")
        await self.owner.events(await self.owner.start(chat, "[[rate=0 tokens=5]] secret words"))
        running = await self.owner.start(chat, "[[first=50 tokens=5]]")
        _, devices = await self.owner.request("GET", "/api/v1/users/me/sessions")
        self.ids = {
            "chat_id": chat,
            "message_id": (await self.owner.messages(chat))[1]["id"],
            "generation_id": running,
            "session_id": devices[0]["id"],
        }

    async def rows(self) -> dict[str, list[str]]:
        """All that is stored of the owner, but for the marks of use that a log-in leaves."""
        user = await self.user_id()
        found = {"users": [await self.database.fetchval("SELECT to_jsonb(u)::text FROM users u WHERE id = $1", user)]}
        for table in TABLES:
            records = await self.database.fetch(
                f"SELECT (to_jsonb(t) - 'last_used_at')::text AS row FROM {table} t WHERE user_id = $1 ORDER BY 1",
                user,
            )
            found[table] = [record["row"] for record in records]
        return found

    async def user_id(self) -> UUID:
        found: UUID = await self.database.fetchval(
            "SELECT user_id FROM device_sessions WHERE id = $1", UUID(self.ids["session_id"])
        )
        return found


@pytest.fixture(scope="module")
def house(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Address]]:
    """A node whose tables may be looked at and written to."""
    address = run_apart(postgres.create())
    node = Node(tmp_path_factory.mktemp("house"), database_environment(address))
    run_apart(node.start())
    yield node, address
    node.end()
    run_apart(postgres.drop(address.database))


@pytest.fixture
async def estate(house: tuple[Node, Address]) -> AsyncIterator[Estate]:
    node, address = house
    connection: asyncpg.Connection[Any] = await asyncpg.connect(**address.connect_arguments())
    async with Person(node) as owner:
        _, document = await owner.request("GET", "/openapi.json")
        settled = Estate(owner, connection, document)
        await settled.settle()
        yield settled
    await connection.close()


def without(ids: dict[str, str], body: Any) -> str:
    """The answer as text, with the ids and the request's own mark taken out."""
    text = json.dumps(body, sort_keys=True)
    for identifier in ids.values():
        text = text.replace(identifier, "ID")
    return re.sub(r'"(request_id|instance)": "[^"]*"', r'"\1": ""', text)


async def ask(person: Person, operation: Operation, ids: dict[str, str]) -> tuple[int, str]:
    method, target, body = operation.request(ids)
    status, answer = await person.request(method, target, body, headers={"Accept": "*/*"})
    return status, without(ids, answer.decode(errors="replace") if isinstance(answer, bytes) else answer)


def token_for(user: UUID, session: UUID, *, age: int = 0) -> str:
    """Signed as ours are, made `age` seconds ago for ten minutes."""
    issued = int(datetime.now(UTC).timestamp()) - age
    claims = AccessClaims(user_id=user, session_id=session, token_id=uuid4(), issued_at=issued, expires_at=issued + 600)
    return sign_access_token(TokenKeys.of(JWT_SECRET), claims)


def test_no_route_of_the_code_is_open_by_an_oversight() -> None:
    """The document could leave a route out; the application cannot."""
    routes = [("/api/v1", entry) for entry in main.API_ROUTES]
    routes += [("", entry) for part in (health, metrics, docs, pages) for entry in part.ROUTES]
    unlocked = set()
    for prefix, entry in routes:
        for path in entry.paths:
            for method in entry.http_methods:
                if "public" in entry.opt:
                    unlocked.add((str(method).lower(), prefix + path))
    assert len(routes) > 30
    documented = {
        f"{method} {path}" for method, path in unlocked if path not in PUBLIC_PAGES or f"{method} {path}" in PUBLIC
    }
    assert documented == PUBLIC
    assert {path for method, path in unlocked if f"{method} {path}" not in PUBLIC} == PUBLIC_PAGES


async def test_every_operation_has_a_lock_unless_it_is_on_the_list(estate: Estate) -> None:
    _, document = await estate.owner.request("GET", "/openapi.json")
    assert document["security"] == [{"bearer": []}]
    names = {f"{entry.method} {entry.path}" for entry in estate.all}
    unlocked = {
        f"{entry.method} {entry.path}"
        for entry in estate.all
        # An empty alternative would mean that the lock need not be used.
        if document["paths"][entry.path][entry.method].get("security", [{"bearer": []}]) in ([], [{}])
    }
    assert unlocked == PUBLIC
    assert names >= PUBLIC
    assert len(names) > 30


async def test_what_belongs_to_another_cannot_be_told_from_what_is_not_there(estate: Estate) -> None:
    before = await estate.rows()
    with_ids = [entry for entry in estate.closed if entry.ids]
    assert len(with_ids) >= 15
    async with Person(estate.owner.node) as stranger:
        for operation in with_ids:
            theirs = await ask(stranger, operation, estate.ids)
            nobodys = await ask(stranger, operation, {name: str(uuid4()) for name in estate.ids})
            assert theirs[0] == 404, (operation.name, theirs)
            assert theirs == nobodys, operation.name
            assert "secret" not in theirs[1]
    assert await estate.rows() == before


async def test_an_own_chat_opens_no_message_of_another(estate: Estate) -> None:
    before = await estate.rows()
    async with Person(estate.owner.node) as stranger:
        ids = {**estate.ids, "chat_id": await stranger.chat()}
        for operation in estate.closed:
            if "message_id" in operation.ids or operation.name == "setChatLeaf":
                assert (await ask(stranger, operation, ids))[0] == 404, operation.name
        status, answer = await stranger.send(ids["chat_id"], "hello", parent_id=ids["message_id"])
        assert status in {400, 404}, answer
        assert await stranger.messages(ids["chat_id"]) == []
    assert await estate.rows() == before


async def test_lists_and_bulk_operations_reach_only_what_is_ones_own(estate: Estate) -> None:
    before = await estate.rows()
    streams = {"streamEvents", "logoutAll"}
    async with Person(estate.owner.node) as stranger:
        for operation in estate.closed:
            if not operation.ids and operation.name not in streams:
                status, answer = await ask(stranger, operation, estate.ids)
                assert status < 500, (operation.name, answer)
                assert "secret" not in answer, operation.name
                if operation.name in {"restoreChats", "deleteChats"}:
                    nobodys = await ask(stranger, operation, {name: str(uuid4()) for name in estate.ids})
                    assert (status, answer) == nobodys, operation.name
    assert await estate.rows() == before


async def refused_everywhere(estate: Estate, person: Person) -> None:
    for operation in estate.closed:
        method, target, body = operation.request(estate.ids)
        async with person.session.request(
            method, person.node.base + target, json=body, headers=person.headers()
        ) as response:
            assert response.status == 401, (operation.name, await response.text())
            assert response.content_type == "application/problem+json"
            assert response.headers["WWW-Authenticate"].startswith("Bearer"), operation.name
            assert "secret" not in await response.text()


async def test_without_a_good_token_every_closed_operation_is_401(estate: Estate) -> None:
    before = await estate.rows()
    good = estate.owner.token
    user, session = await estate.user_id(), UUID(estate.ids["session_id"])
    head, claims, signature = good.split(".")
    tokens = {
        "none": "",
        "garbage": "garbage",
        "expired": token_for(user, session, age=700),
        "other signature": f"{head}.{claims}.{signature[::-1]}",
        "no signature": f"{head}.{claims}.",
        "refresh token": estate.owner.refresh_token,
        "session that is not there": token_for(user, uuid4()),
    }
    async with Person(estate.owner.node) as anyone:
        anyone.token = token_for(user, session)
        assert (await anyone.request("GET", "/api/v1/users/me"))[0] == 200, "the tokens made here are like real ones"
        for token in tokens.values():
            anyone.token = token
            await refused_everywhere(estate, anyone)
    assert await estate.rows() == before


async def test_a_deactivated_account_is_401_at_every_closed_operation(estate: Estate) -> None:
    await estate.database.execute("UPDATE users SET is_active = false WHERE id = $1", await estate.user_id())
    before = await estate.rows()
    # Without a word to the process it may believe for five seconds what it knew (protocol §7).
    deadline = asyncio.get_running_loop().time() + 5.5
    while (await estate.owner.request("GET", "/api/v1/users/me"))[0] != 401:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    await refused_everywhere(estate, estate.owner)
    after = await estate.rows()
    for table in ("users", "chats", "device_sessions", "stream_tickets"):
        assert after[table] == before[table]
