"""The chat routes as an application of their own, on a real database, with two people at the door."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from estimates import accounting
from litestar import Litestar, Request, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException

from llmchatbot.database.pool import Database
from llmchatbot.errors import AppError, InvalidToken
from llmchatbot.handlers import chats, messages_list, search
from llmchatbot.handlers.authentication import Door
from llmchatbot.handlers.inputs import JsonRequest
from llmchatbot.handlers.problems import handle_app_error, handle_http_exception, handle_unexpected
from llmchatbot.ids import new_id
from llmchatbot.models.principals import Principal
from llmchatbot.services.chats import ChatService
from llmchatbot.services.search import SearchService
from llmchatbot.streaming.wakeups import LocalWakeUps

Body = dict[str, Any]


class QueryRecorder:
    """The statements of our own that connections send; what begins and ends transactions is not one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        for name in ("fetch", "fetchrow", "fetchval", "execute"):
            self._watch(monkeypatch, name)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        original = getattr(asyncpg.Connection, name)

        async def recorded(connection: asyncpg.Connection[asyncpg.Record], query: str, *args: Any, **kw: Any) -> Any:
            if not re.match(r"BEGIN|COMMIT|ROLLBACK", query):
                self.statements.append(query)
            return await original(connection, query, *args, **kw)

        monkeypatch.setattr(asyncpg.Connection, name, recorded)

    @contextmanager
    def expecting(self, count: int) -> Iterator[None]:
        before = len(self.statements)
        yield
        assert self.statements[before:] == self.statements[before : before + count], "more statements than allowed"
        assert len(self.statements) - before == count


class Doorkeeper:
    """Takes the name of a person for a token."""

    def __init__(self, principals: dict[str, Principal]) -> None:
        self._principals = principals

    async def authenticate(self, token: str) -> Principal:
        if token not in self._principals:
            raise InvalidToken
        return self._principals[token]


class Person:
    """Somebody with a client, and with hands to write messages as the sending side does."""

    def __init__(self, client: httpx.AsyncClient, db: Database, user_id: UUID) -> None:
        self.client = client
        self.user_id = user_id
        self._db = db

    async def create(self, title: str = "", **members: Any) -> Body:
        response = await self.client.post("/api/v1/chats", json={"title": title, **members})
        assert response.status_code == 201, response.text
        created: Body = response.json()
        return created

    async def say(
        self,
        chat_id: str,
        content: str,
        *,
        role: str = "user",
        parent: UUID | None = None,
        status: str = "completed",
        generation_id: UUID | None = None,
    ) -> UUID:
        """A message; the chat's leaf moves to it."""
        message_id = new_id()
        async with self._db.transaction() as transaction:
            number = await transaction.fetchval(
                "UPDATE chats SET last_sequence = last_sequence + 1, message_count = message_count + 1, leaf_id = $2, "
                "updated_at = now() WHERE id = $1 RETURNING last_sequence",
                UUID(chat_id),
                message_id,
            )
            await transaction.execute(
                "INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role, status, content, "
                "generation_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                message_id,
                UUID(chat_id),
                self.user_id,
                parent,
                number,
                role,
                status,
                content,
                generation_id,
            )
        return message_id

    async def talk(self, chat_id: str, count: int, parent: UUID | None = None) -> list[UUID]:
        """`count` messages, one after the other."""
        said: list[UUID] = []
        for number in range(count):
            role = "user" if number % 2 == 0 else "assistant"
            parent = await self.say(chat_id, f"text {number}", role=role, parent=parent)
            said.append(parent)
        return said

    async def feed(self) -> list[str]:
        records = await self._db.fetch("SELECT payload FROM user_events WHERE user_id = $1 ORDER BY seq", self.user_id)
        return [record["payload"] for record in records]


async def make_user(db: Database, name: str) -> UUID:
    user_id = new_id()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, $3)", user_id, f"{name}@x.org", name)
    return user_id


@pytest.fixture
def wakeups() -> LocalWakeUps:
    return LocalWakeUps()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> QueryRecorder:
    return QueryRecorder(monkeypatch)


@pytest.fixture
async def principals(db: Database) -> dict[str, Principal]:
    return {name: Principal(user_id=await make_user(db, name), session_id=new_id()) for name in ("ada", "bob")}


@pytest.fixture
def chat_application(db: Database, principals: dict[str, Principal], wakeups: LocalWakeUps) -> Litestar:
    def provide_principal(request: Request[Principal, Any, Any]) -> Principal:
        return request.user

    handlers: dict[Any, Any] = {
        AppError: handle_app_error,
        HTTPException: handle_http_exception,
        Exception: handle_unexpected,
    }
    chat_service = ChatService(database=db, wakeups=wakeups, accounting=accounting())
    search_service = SearchService(database=db)
    return Litestar(
        route_handlers=[Router("/api/v1", route_handlers=[*chats.ROUTES, *messages_list.ROUTES, *search.ROUTES])],
        request_class=JsonRequest,
        before_request=Door(Doorkeeper(principals)),
        exception_handlers=handlers,
        logging_config=None,
        dependencies={
            "principal": Provide(provide_principal, sync_to_thread=False),
            "chat_service": Provide(lambda: chat_service, sync_to_thread=False),
            "search_service": Provide(lambda: search_service, sync_to_thread=False),
        },
    )


async def _person(
    name: str, application: Litestar, db: Database, principals: dict[str, Principal]
) -> AsyncIterator[Person]:
    # The pool belongs to the loop of the test, so Litestar's own client with its own loop will not do.
    asgi: Any = application
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(asgi),
        base_url="http://testserver.local",
        headers={"Authorization": f"Bearer {name}"},
    ) as client:
        yield Person(client, db, principals[name].user_id)


@pytest.fixture
async def ada(chat_application: Litestar, db: Database, principals: dict[str, Principal]) -> AsyncIterator[Person]:
    async for person in _person("ada", chat_application, db, principals):
        yield person


@pytest.fixture
async def bob(chat_application: Litestar, db: Database, principals: dict[str, Principal]) -> AsyncIterator[Person]:
    async for person in _person("bob", chat_application, db, principals):
        yield person
