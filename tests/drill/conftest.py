"""One cluster for all plans of a test process: starting it costs more than a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from llmchatbot.drill.cluster import SHORT_PACE, Cluster
from llmchatbot.drill.runner import NODES


@pytest.fixture(scope="session")
def drill_loop() -> Iterator[asyncio.Runner]:
    """The loop in which the cluster lives; each plan runs in it."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def cluster(drill_loop: asyncio.Runner) -> Iterator[Cluster]:
    made = Cluster(nodes=NODES, pace=SHORT_PACE)
    drill_loop.run(made.__aenter__())
    try:
        yield made
    finally:
        drill_loop.run(made.__aexit__())
