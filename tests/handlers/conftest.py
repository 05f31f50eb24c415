"""The account routes as an application of their own, with real services on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar, Router
from litestar.exceptions import HTTPException

from llmchatbot.clock import ManualClock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.errors import AppError
from llmchatbot.handlers import auth, users
from llmchatbot.handlers.authentication import Door, principal_of
from llmchatbot.handlers.binding import Parts
from llmchatbot.handlers.clients import caller_of
from llmchatbot.handlers.inputs import JsonRequest
from llmchatbot.handlers.problems import handle_app_error, handle_http_exception, handle_unexpected
from llmchatbot.security import PasswordHasher
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.rate_limits import PostgresCounters
from llmchatbot.streaming.wakeups import LocalWakeUps

Body = dict[str, Any]
Register = Callable[..., Awaitable[Body]]


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def auth_settings() -> AuthSettings:
    return AuthSettings(jwt_secret="a secret of the tests, long enough for HS256")


@pytest.fixture
async def accounts(db: Database, manual_clock: ManualClock, auth_settings: AuthSettings) -> AsyncIterator[Accounts]:
    """With a hasher that is quick instead of safe."""
    built = Accounts(
        db=db,
        counters=PostgresCounters(db),
        wakeups=LocalWakeUps(),
        clock=manual_clock,
        settings=auth_settings,
        hasher=PasswordHasher(memory_kib=64, passes=1),
    )
    yield built
    built.close()


def application(accounts: Accounts) -> Litestar:
    handlers: dict[Any, Any] = {
        AppError: handle_app_error,
        HTTPException: handle_http_exception,
        Exception: handle_unexpected,
    }
    parts = Parts(
        of_process={
            "auth_service": accounts.auth,
            "user_service": accounts.users,
            "device_session_service": accounts.sessions,
        },
        of_request={"principal": principal_of, "caller": lambda scope: caller_of(scope, ())},
    )
    return Litestar(
        route_handlers=[Router("/api/v1", route_handlers=parts.bind_all([*auth.ROUTES, *users.ROUTES]))],
        request_class=JsonRequest,
        before_request=Door(accounts.auth),
        exception_handlers=handlers,
        logging_config=None,
    )


@pytest.fixture
async def http(accounts: Accounts) -> AsyncIterator[httpx.AsyncClient]:
    """In the loop of the test, unlike Litestar's own client: the pool belongs to that loop."""
    app: Any = application(accounts)  # both follow ASGI, each with types of its own
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver.local") as client:
        yield client


@pytest.fixture
def register(http: httpx.AsyncClient) -> Register:
    """Register somebody and return the token body."""

    async def register_one(email: str = "ada@example.com", password: str = "correct horse battery") -> Body:
        response = await http.post(
            "/api/v1/auth/register", json={"email": email, "username": "Ada", "password": password}
        )
        assert response.status_code == 201, response.text
        body: Body = msgspec.json.decode(response.content)
        return body

    return register_one
