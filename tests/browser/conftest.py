"""Headless Chromium on a real server process. The whole folder shares one browser, one server and one event loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
import pytest_asyncio
from browsing import NewPerson, Somebody
from nodes import Node, database_environment
from playwright.async_api import Browser, async_playwright

from llmchatbot.database.address import Address

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all: browser and pages belong to the loop they were made in."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if inspect.iscoroutinefunction(getattr(item, "function", None)):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield launched
        await launched.close()


class Creates(Protocol):
    """The part of the session's PostgreSQL that is needed here."""

    async def create(self) -> Address: ...


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def web_database(postgres: Creates) -> Address:
    return await postgres.create()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site(web_database: Address, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """The server that most tests talk to."""
    environment = {**database_environment(web_database), "DEFAULT_MODEL": "scripted", "MAX_ACTIVE_GENERATIONS": "50"}
    node = await Node(tmp_path_factory.mktemp("site"), environment).start()
    yield node
    node.end()


@pytest_asyncio.fixture(loop_scope="session")
async def sql(web_database: Address) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The database behind `site`, for what no model would write and no person could type."""
    connection = await asyncpg.connect(**web_database.connect_arguments())
    yield connection
    await connection.close()


@pytest.fixture
def start_server(postgres: Creates, tmp_path: Path) -> Iterator[Callable[..., Awaitable[Node]]]:
    """`await start_server(**environment)`: a server of one's own, alone on its database."""
    nodes: list[Node] = []

    async def start(**environment: str) -> Node:
        database = database_environment(await postgres.create())
        node = Node(tmp_path, {**database, "DEFAULT_MODEL": "scripted", **environment})
        nodes.append(node)
        return await node.start()

    yield start
    for node in nodes:
        node.end()


@pytest_asyncio.fixture(loop_scope="session")
async def new_person(browser: Browser, site: Node) -> AsyncIterator[NewPerson]:
    """`await new_person()`: a browser profile of its own. Whatever a page complained about fails the test."""
    people: list[Somebody] = []

    async def create(base: str = "", **options: Any) -> Somebody:
        settings = {
            "viewport": {"width": 1280, "height": 800},
            "locale": "en-GB",
            "reduced_motion": "reduce",
            **options,
        }
        context = await browser.new_context(**settings)
        context.set_default_timeout(10_000)
        people.append(Somebody(base or site.base, context))
        return people[-1]

    yield create
    for person in people:
        await person.context.close()
    assert [person.complaints for person in people if person.complaints] == []
    assert [person.foreign for person in people if person.foreign] == []


@pytest_asyncio.fixture(loop_scope="session")
async def ada(new_person: NewPerson) -> Somebody:
    return await new_person()
