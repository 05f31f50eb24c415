"""The LLM service as a process of a test, and how its two protocols are read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

KEY = "a-key-for-tests"
NDJSON, CHAT = "/api/v1/generate/stream", "/v1/chat/completions"
READY = re.compile(r"LLM service ready on (http://\S+)")


def environment(**variables: str) -> dict[str, str]:
    """Without the settings of whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), **variables}


class Service:
    """A running service, and one caller of it."""

    def __init__(self, url: str, key: str = KEY, process: subprocess.Popen[str] | None = None) -> None:
        self.url, self.key, self.process = url, key, process

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    async def lines(self, http: aiohttp.ClientSession, prompt: str = "Begin.", **more: Any) -> list[dict[str, Any]]:
        """A whole answer by the NDJSON contract."""
        body = {"prompt": prompt, "history": [], "model": "", **more}
        async with http.post(self.url + NDJSON, json=body, headers=self.headers) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "application/x-ndjson"
            return [msgspec.json.decode(line) for line in (await response.read()).splitlines()]

    async def events(self, http: aiohttp.ClientSession, prompt: str = "Begin.", **more: Any) -> list[dict[str, Any]]:
        """A whole answer as OpenAI's stream, without the end mark, which must be there."""
        body = {"messages": [{"role": "user", "content": prompt}], "stream": True, **more}
        async with http.post(self.url + CHAT, json=body, headers=self.headers) as response:
            assert response.status == 200, await response.text()
            blocks = (await response.read()).decode().split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        return [msgspec.json.decode(block.removeprefix("data: ")) for block in blocks[:-2]]

    async def metric(self, http: aiohttp.ClientSession, name: str) -> float:
        async with http.get(f"{self.url}/metrics", headers=self.headers) as response:
            values = [line.rpartition(" ")[2] for line in (await response.text()).splitlines() if line.startswith(name)]
        return sum(float(value) for value in values)

    async def busy(self, http: aiohttp.ClientSession) -> int:
        """Slots at work, as the engine itself says."""
        return int(await self.metric(http, "llm_service_slots_busy"))

    async def waiting(self, http: aiohttp.ClientSession) -> int:
        """Requests that have no slot yet."""
        return int(await self.metric(http, "llm_service_requests_waiting"))


async def until(number: int, probe: Callable[[], Awaitable[int]], *, deadline: float = 20.0) -> float:
    """Seconds until `probe` gives `number`."""
    started = time.monotonic()
    while (found := await probe()) != number:
        assert time.monotonic() - started < deadline, f"still {found} instead of {number}"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


@contextlib.asynccontextmanager
async def begun(
    service: Service, http: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer whose first bytes are there; leaving closes the connection, as a stop does."""
    async with http.post(service.url + path, json=body, headers=service.headers) as response:
        assert response.status == 200
        await response.content.readany()
        yield response
        response.close()


StartService = Callable[..., Service]


@contextlib.contextmanager
def service_starter() -> Iterator[StartService]:
    """Start services; they end with the block, however it ends."""
    running: list[subprocess.Popen[str]] = []

    def start(model: Path, *arguments: str, key: str = KEY) -> Service:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmchatbot.llm_service", "--model", str(model), "--port", "0", *arguments],
            env=environment(LLM_SERVICE_KEY=key),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        match = READY.match(process.stdout.readline())
        assert match is not None, "the service did not start"
        return Service(match[1], key, process)

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()
