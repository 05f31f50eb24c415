"""Server processes of a test. `node` is shared by all tests of a session: people in it never meet.

`start_node` makes processes of the test's own, on the test's own database: for whoever kills, stops or tunes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from nodes import Node, Person, database_environment
from tests.conftest import PostgresServer, run_apart

from llmchatbot.database.address import Address

StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
def start_node(tmp_path: Path, database: Address) -> Iterator[StartNode]:
    """`await start_node(**environment)`: one more process on the test's database."""
    nodes: list[Node] = []

    async def start(*, port: int | None = None, **environment: str) -> Node:
        node = Node(tmp_path, {**database_environment(database), **environment}, port=port)
        nodes.append(node)
        return await node.start()

    yield start
    for node in nodes:
        node.end()


@pytest.fixture(scope="session")
def node(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    address = run_apart(postgres.create())
    node = Node(tmp_path_factory.mktemp("node"), database_environment(address))
    run_apart(node.start())
    yield node
    node.end()
    run_apart(postgres.drop(address.database))


@pytest.fixture
async def person(node: Node) -> AsyncIterator[Person]:
    async with Person(node) as somebody:
        yield somebody


@pytest.fixture
async def stranger(node: Node) -> AsyncIterator[Person]:
    """Somebody else on the same node."""
    async with Person(node) as somebody:
        yield somebody
