"""SIGTERM: what runs is finished, what comes is refused, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from pathlib import Path

import aiohttp
from local_service import NDJSON, StartService, begun, until


async def test_a_running_answer_is_finished_and_new_ones_are_refused(
    start_service: StartService, models: Path, http: aiohttp.ClientSession
) -> None:
    service = await asyncio.to_thread(start_service, models / "slow.gguf", "--threads", "1")
    assert service.process is not None
    async with begun(service, http, NDJSON, {"prompt": "Begin.", "max_tokens": 150}) as answer:
        service.process.send_signal(signal.SIGTERM)
        await until(503, functools.partial(health, service.url, http))
        async with http.post(service.url + NDJSON, json={"prompt": "Late."}, headers=service.headers) as late:
            assert (late.status, late.headers["Retry-After"]) == (503, "1")
        assert b'{"type":"complete"' in await answer.read()
    assert await asyncio.to_thread(service.process.wait, 10) == 0


async def test_whoever_outlasts_the_drain_is_cut_off(
    start_service: StartService, models: Path, http: aiohttp.ClientSession
) -> None:
    service = await asyncio.to_thread(start_service, models / "slow.gguf", "--threads", "1", "--drain", "200ms")
    assert service.process is not None
    began = time.monotonic()
    async with begun(service, http, NDJSON, {"prompt": "Begin."}):
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait, 10) == 0
    assert time.monotonic() - began < 6


async def test_a_second_signal_means_now(
    start_service: StartService, models: Path, http: aiohttp.ClientSession
) -> None:
    service = await asyncio.to_thread(start_service, models / "slow.gguf", "--threads", "1", "--drain", "60s")
    assert service.process is not None
    async with begun(service, http, NDJSON, {"prompt": "Begin."}):
        service.process.send_signal(signal.SIGINT)
        await until(503, functools.partial(health, service.url, http))
        service.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(service.process.wait, 10) == 0


async def health(url: str, http: aiohttp.ClientSession) -> int:
    async with http.get(f"{url}/health") as response:
        return response.status
