"""Somebody with an account who sends, reads and stops, and does not give up when a machine does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from llmchatbot.drill.outcome import Outcome
from llmchatbot.drill.proxy import Fault
from llmchatbot.drill.reading import BlockDecoder, Follower
from llmchatbot.errors import StartupError

_REQUEST_SECONDS = 20.0
_PATIENCE = 60.0
_PAUSE = 0.1

PASSING = (aiohttp.ClientError, OSError, TimeoutError)


class Answer(msgspec.Struct, frozen=True):
    """A response. `status` 0: there was none."""

    status: int
    body: Any = None
    seconds: float = 0.0


Watch = Callable[[str, Answer], None]


class Person:
    """A guest. `urls` are the nodes; each call may name the one it wants."""

    def __init__(self, urls: list[str], outcome: Outcome, *, watch: Watch = lambda path, answer: None) -> None:
        self.urls = urls
        self.token = ""
        self.refresh_token = ""
        self.watch = watch
        self._outcome = outcome
        # One connection for each request: what was kept alive dies with a node and proves nothing.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=None)
        )
        # A proxy between us and a deployment must not show in the name of the host.
        self._host = urlsplit(urls[0]).netloc

    async def __aenter__(self) -> Self:
        answer = await self.persistently("POST", "/api/v1/auth/guest")
        if answer.status != 201:
            await self._session.close()
            raise StartupError(f"No guest account can be made at {self.urls[0]}: status {answer.status}.")
        self.token, self.refresh_token = answer.body["access_token"], answer.body["refresh_token"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {"Host": self._host, **bearer, **(more or {})}

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        url: str = "",
        headers: Mapping[str, str] | None = None,
        seconds: float = _REQUEST_SECONDS,
    ) -> Answer:
        """One try. A connection that fails is an answer with status 0."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = Answer(0)
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method, (url or self.urls[0]) + path, json=body, headers=self._headers(headers)
                ) as response,
            ):
                data = await response.read()
                content = json.loads(data) if data else None
                answer = Answer(response.status, content, loop.time() - began)
        except (*PASSING, ValueError):
            answer = Answer(0, None, loop.time() - began)
        self.watch(path, answer)
        return answer

    async def persistently(
        self, method: str, path: str, body: Any = None, *, url: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Again while nobody answers or the answer is 503, at other nodes too, for a minute."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        tries = 0
        while True:
            target = url if url and not tries else self.urls[tries % len(self.urls)]
            answer = await self.request(method, path, body, url=target, headers=headers)
            if answer.status not in {0, 503} or loop.time() > deadline:
                return answer
            tries += 1
            self._outcome.count("requests repeated")
            await asyncio.sleep(_PAUSE)

    async def chat(self, *, url: str = "") -> str:
        answer = await self.persistently("POST", "/api/v1/chats", {}, url=url)
        if answer.status != 201:
            raise StartupError(f"A chat cannot be made: status {answer.status}.")
        identifier: str = answer.body["id"]
        return identifier

    async def send(self, chat: str, content: str, *, model: str = "", url: str = "", key: str = "") -> str:
        """The id of the generation. Every send has a key, as every client's should."""
        body = {"content": content, "request_id": key or uuid.uuid4().hex, **({"model": model} if model else {})}
        answer = await self.persistently("POST", f"/api/v1/chats/{chat}/messages", body, url=url)
        if answer.status != 201:
            self._outcome.violate(f"a message was refused with {answer.status}")
            raise StartupError(f"A message was refused: status {answer.status}.")
        identifier: str = answer.body["generation"]["id"]
        return identifier

    async def read(
        self,
        follower: Follower,
        *,
        url: str = "",
        fault: Fault | None = None,
        until: Callable[[Follower], bool] | None = None,
        seconds: float = _PATIENCE,
    ) -> int:
        """One connection, from where `follower` stands, until it ends or `until` says so; the status, 0 for none."""
        headers = {"Accept": "text/event-stream", **(fault.header if fault is not None else {})}
        if follower.last_id:
            headers["Last-Event-ID"] = follower.last_id
        path = f"{url or self.urls[0]}/api/v1/generations/{follower.generation_id}/stream"
        loop = asyncio.get_running_loop()
        decoder = BlockDecoder()
        status = 0
        with contextlib.suppress(*PASSING):
            async with (
                asyncio.timeout(seconds),
                self._session.get(path, headers=self._headers(headers)) as response,
            ):
                status = response.status
                if status == 200:
                    async for data in response.content.iter_any():
                        for block in decoder.feed(data):
                            follower.take(block, loop.time())
                        if until is not None and until(follower):
                            return status
        return status

    async def follow(
        self, follower: Follower, *, url: str = "", native: bool = False, seconds: float = _PATIENCE
    ) -> None:
        """To the end of the answer, over as many connections and nodes as it takes.

        `native`: as a browser's EventSource, which gives up for ever on any status but 200.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        tries = 0
        while not follower.ended:
            if loop.time() > deadline:
                self._outcome.violate(f"no end of {follower.generation_id} within {seconds:.0f} s")
                return
            target = url if url and not tries else self.urls[tries % len(self.urls)]
            status = await self.read(follower, url=target, seconds=deadline - loop.time() + 1)
            tries += 1
            if status == 204:
                self._outcome.violate(f"{follower.generation_id}: 204 before its end was seen")
                return
            if status not in ({0, 200} if native else {0, 200, 503}):
                self._outcome.violate(f"{follower.generation_id}: status {status} for a reader")
                return
            if not follower.ended:
                await asyncio.sleep(_PAUSE)

    async def generation_of_stream(self, path: str, *, url: str = "", fault: Fault | None = None) -> str | None:
        """Open a stream that sends a message; which answer its first whole event belongs to, None when none came."""
        headers = {"Accept": "text/event-stream", **(fault.header if fault is not None else {})}
        decoder = BlockDecoder()
        with contextlib.suppress(*PASSING):
            async with (
                asyncio.timeout(_REQUEST_SECONDS),
                self._session.get(
                    URL((url or self.urls[0]) + path, encoded=True), headers=self._headers(headers)
                ) as response,
            ):
                if response.status != 200:
                    self._outcome.violate(f"a stream by GET was refused with {response.status}")
                    return None
                async for data in response.content.iter_any():
                    for block in decoder.feed(data):
                        return block.id.rpartition(".")[0]
        return None

    async def messages(self, chat: str) -> list[dict[str, Any]]:
        answer = await self.persistently("GET", f"/api/v1/chats/{chat}/messages?branch=all")
        found: list[dict[str, Any]] = answer.body if answer.status == 200 else []
        return found
