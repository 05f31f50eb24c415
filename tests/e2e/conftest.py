"""Server processes of a test: they share its database, and end with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from nodes import Node, Person, database_environment

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


@pytest.fixture
async def node(start_node: StartNode) -> Node:
    return await start_node()


@pytest.fixture
async def person(node: Node) -> AsyncIterator[Person]:
    async with Person(node) as somebody:
        yield somebody
