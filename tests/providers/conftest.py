"""Fixtures of the protocol tests; the recordings themselves are in `tests/support/model_recordings.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from model_recordings import RECORDINGS, RawServer, Recording

from llmchatbot.llm.transport import HttpTransport


@pytest.fixture(params=list(RECORDINGS))
def recording(request: pytest.FixtureRequest) -> Recording:
    """Each protocol in turn: one suite for all."""
    return RECORDINGS[request.param]


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    """A server on a free loopback port."""
    raw = RawServer()
    await raw.start()
    yield raw
    await raw.stop()


@pytest.fixture(params=["direct", "direct, read in turns", "by the environment's rules"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[HttpTransport]:
    """A real transport, each kind in turn, closed at the end."""
    real = HttpTransport(trust_environment_proxies="direct" not in request.param)
    if "turns" in request.param:
        # Nobody collects, as when the writer waits for a database: then it happens by itself.
        real.collector.use(lambda: None)
    yield real
    await real.aclose()
