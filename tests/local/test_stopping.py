"""A caller that leaves frees its slot at once, whatever the answer was doing."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import aiohttp
import pytest
from local_service import CHAT, NDJSON, Service, begun, until

SOON = 0.5
CHAT_BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Begin."}]}
ENDLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "ndjson": (NDJSON, {"prompt": "Begin."}),
    "openai": (CHAT, {**CHAT_BODY, "stream": True}),
}


@pytest.mark.parametrize("protocol", ENDLESS)
async def test_a_closed_stream_frees_the_slot_within_half_a_second(
    slow: Service, http: aiohttp.ClientSession, protocol: str
) -> None:
    async with begun(slow, http, *ENDLESS[protocol]):
        assert await slow.busy(http) == 1
    assert await until(0, functools.partial(slow.busy, http)) <= SOON


async def test_a_caller_of_one_object_that_leaves_frees_the_slot_too(
    slow: Service, http: aiohttp.ClientSession
) -> None:
    # The engine itself would never notice: it writes nothing before the end.
    call = asyncio.ensure_future(http.post(slow.url + CHAT, json=CHAT_BODY, headers=slow.headers))
    await until(1, functools.partial(slow.busy, http))
    call.cancel()
    assert await until(0, functools.partial(slow.busy, http)) <= SOON


async def test_a_caller_that_leaves_while_a_long_prompt_is_read_frees_the_slot(
    slow: Service, http: aiohttp.ClientSession
) -> None:
    began = time.monotonic()
    await slow.lines(http, f"{began} " + "x y z " * 500, max_tokens=1)
    whole = time.monotonic() - began
    call = asyncio.create_task(slow.lines(http, f"{whole} " + "x y z " * 500))
    await until(1, functools.partial(slow.busy, http))
    call.cancel()
    # The prompt has fifty batches; the one at hand is finished, and perhaps one more.
    assert await until(0, functools.partial(slow.busy, http)) <= max(SOON, whole / 5)


async def test_one_that_waits_for_a_slot_can_leave_and_one_too_many_is_refused(
    slow: Service, http: aiohttp.ClientSession
) -> None:
    async with begun(slow, http, *ENDLESS["ndjson"]):
        waiting = asyncio.create_task(slow.lines(http, "I wait.", max_tokens=3))
        await until(1, functools.partial(slow.waiting, http))
        async with http.post(slow.url + NDJSON, json={"prompt": "Too many."}, headers=slow.headers) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "5"
            assert "overloaded" in (await response.json())["content"]
        waiting.cancel()
        await until(0, functools.partial(slow.waiting, http))
        assert await slow.busy(http) == 1
    assert await until(0, functools.partial(slow.busy, http)) <= SOON


async def test_the_next_in_the_queue_gets_the_slot_of_one_who_stopped(
    slow: Service, http: aiohttp.ClientSession
) -> None:
    async with begun(slow, http, *ENDLESS["openai"]):
        waiting = asyncio.create_task(slow.lines(http, "I wait.", max_tokens=3))
        await until(1, functools.partial(slow.waiting, http))
        assert not waiting.done()
    assert (await waiting)[-1]["content"] == " aa ab ac"
