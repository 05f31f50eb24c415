"""`make run` with a model in the data directory: answers come from it, without a setting."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from local_service import until
from nodes import Node, Person, database_environment, text_of
from tiny_model import RECITATION, make_model

from llmchatbot.database.address import Address


@pytest.fixture(params=["1", "2"], ids=["one process", "two workers"])
async def node(tmp_path: Path, database: Address, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    (tmp_path / "data" / "models").mkdir(parents=True)
    make_model(tmp_path / "data" / "models" / "reciter.gguf", layers=10)
    environment = {
        **database_environment(database),
        "DATA_DIR": str(tmp_path / "data"),
        "LLM_SCRIPTED": "false",
        "SERVER_WORKERS": request.param,
    }
    node = Node(tmp_path, environment)
    yield await node.start()
    node.end()


def services(model: Path) -> list[int]:
    """The processes that serve this model."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended in the meantime
            if command[1:3] == [b"-m", b"llmchatbot.llm_service"] and os.fsencode(model) in command:
                found.append(int(folder.name))
    return found


async def test_the_model_answers_survives_its_own_death_and_ends_with_the_product(node: Node, tmp_path: Path) -> None:
    model = tmp_path / "data" / "models" / "reciter.gguf"
    async with Person(node) as person:
        _, listed = await person.request("GET", "/api/v1/models")
        assert "reciter" in str(listed)
        chat = await person.chat()
        events = await person.events(await person.start(chat, "Begin.", model="reciter"))
        assert text_of(events) == events[-1]["content"] == RECITATION
        (victim,) = services(model)
        os.kill(victim, signal.SIGKILL)
        again = await person.events(await person.start(chat, "Once more.", model="reciter"))
        assert again[-1]["content"] == RECITATION
        assert services(model) != [victim]
    assert await node.stop() == 0

    async def count() -> int:
        return len(services(model))

    began = time.monotonic()
    await until(0, count)
    assert time.monotonic() - began < 5
