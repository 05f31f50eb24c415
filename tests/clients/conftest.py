"""A real server, and somebody who asks it for long answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cutting import Bench
from nodes import Node, Person, database_environment

from llmchatbot.database.address import Address


@pytest.fixture
async def node(tmp_path: Path, database: Address) -> AsyncIterator[Node]:
    made = Node(tmp_path, database_environment(database))
    try:
        yield await made.start()
    finally:
        made.end()


@pytest.fixture
async def person(node: Node) -> AsyncIterator[Person]:
    async with Person(node) as somebody:
        yield somebody


@pytest.fixture
def bench(person: Person) -> Bench:
    return Bench(person)
