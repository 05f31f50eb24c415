"""A real model, loaded for real by a service in a process of its own."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from local_service import Service, StartService, service_starter
from tiny_model import make_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is `local`, and needs the extra of that name."""
    missing = importlib.util.find_spec("xllamacpp") is None
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.local)
            if missing:
                item.add_marker(pytest.mark.skip(reason="needs the extra 'local': uv sync --extra local"))


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    """`reciter.gguf` ends, `endless.gguf` goes on until its context is full, `slow.gguf` takes its time over it."""
    with tempfile.TemporaryDirectory(prefix="llmchatbot-models-") as folder:
        make_model(Path(folder, "reciter.gguf"))
        make_model(Path(folder, "endless.gguf"), endless=True)
        make_model(Path(folder, "slow.gguf"), endless=True, layers=32)
        yield Path(folder)


@pytest.fixture
def start_service() -> Iterator[StartService]:
    with service_starter() as start:
        yield start


@pytest.fixture(scope="session")
def reciter(models: Path) -> Iterator[Service]:
    """Four slots, and a model whose text is known and ends."""
    with service_starter() as start:
        yield start(models / "reciter.gguf", "--threads", "1", "--slots", "4", "--context", "4096")


@pytest.fixture(scope="session")
def slow(models: Path) -> Iterator[Service]:
    """One slot, one place to wait, and answers that last for seconds."""
    with service_starter() as start:
        yield start(models / "slow.gguf", "--threads", "1", "--slots", "1", "--context", "4096", "--waiting", "1")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session
