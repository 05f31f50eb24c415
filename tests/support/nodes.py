"""Real server processes for tests, each on a free port, and a client that talks to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from llmchatbot.database.address import Address

JWT_SECRET = "a secret of the tests, long enough for HS256"
_START_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def database_environment(address: Address) -> dict[str, str]:
    return {
        "DB_HOST": address.host,
        "DB_PORT": str(address.port),
        "DB_USER": address.user,
        "DB_NAME": address.database,
        "DB_SSLMODE": "disable",
    }


class Node:
    """One server process."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._log_path = folder / f"node-{self.port}.log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DATA_DIR": str(folder / f"data-{self.port}"),
            "SERVER_PORT": str(self.port),
            "JWT_SECRET": JWT_SECRET,
            "LLM_SCRIPTED": "true",
            "DB_MAX_OPEN_CONNS": "8",
            "REGISTER_PER_HOUR": "100000",
            "MESSAGES_PER_MINUTE": "100000",
            "REQUESTS_PER_MINUTE": "1000000",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> Self:
        """Returns when it is ready to serve."""
        self.spawn()
        await self.wait_ready()
        return self

    def spawn(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llmchatbot", "serve"],
                env=self.environment,
                cwd=self._log_path.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        async with aiohttp.ClientSession() as session:
            while asyncio.get_running_loop().time() < deadline:
                assert self.process is not None
                if self.process.poll() is not None:
                    raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.get(f"{self.base}/health/ready") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)
        raise AssertionError(f"the server was not ready within {_START_SECONDS} s:\n{self.log()}")

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def kill(self) -> None:
        """As a crash: no word to anybody."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self, timeout: float = 40.0) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, timeout)

    def end(self) -> None:
        """At the end of a test, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(1)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Event(dict[str, Any]):
    """The data of one event, and its id."""

    def __init__(self, id_: str, data: Mapping[str, Any], name: str = "") -> None:
        super().__init__(data)
        self.id = id_
        self.name = name

    @property
    def seq(self) -> int:
        return int(self.id.rpartition(".")[2])


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """A decoder of its own, so that ours is not judged by itself; incomplete blocks at the end are dropped."""
    buffer = b""
    async for chunk in response.content.iter_any():
        buffer += chunk
        while b"\n\n" in buffer:
            block, _, buffer = buffer.partition(b"\n\n")
            fields: dict[str, str] = {}
            for line in block.split(b"\n"):
                if line and not line.startswith(b":"):
                    name, _, value = line.partition(b": ")
                    fields[name.decode()] = value.decode("ascii")
            if "data" in fields:
                yield Event(fields.get("id", ""), json.loads(fields["data"]), fields.get("event", ""))


class Person:
    """Somebody with an account who talks to nodes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.token = ""
        self.refresh_token = ""
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))

    async def __aenter__(self) -> Self:
        await self.guest()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def guest(self) -> None:
        status, body = await self.request("POST", "/api/v1/auth/guest")
        assert status == 201, body
        self.token, self.refresh_token = body["access_token"], body["refresh_token"]

    def headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", **more} if self.token else more

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        node: Node | None = None,
    ) -> tuple[int, Any]:
        base = (node or self.node).base
        async with self.session.request(
            method, base + path, json=body, headers=self.headers(**(headers or {}))
        ) as response:
            data = await response.read()
            try:
                return response.status, json.loads(data)
            except ValueError:
                return response.status, data

    async def chat(self, **body: Any) -> str:
        status, created = await self.request("POST", "/api/v1/chats", body)
        assert status == 201, created
        identifier: str = created["id"]
        return identifier

    async def send(self, chat: str, content: str, *, node: Node | None = None, **body: Any) -> tuple[int, Any]:
        body.setdefault("model", "scripted")
        return await self.request("POST", f"/api/v1/chats/{chat}/messages", {"content": content, **body}, node=node)

    async def start(self, chat: str, content: str, **body: Any) -> str:
        """Send and return the id of the generation."""
        status, sent = await self.send(chat, content, **body)
        assert status == 201, sent
        identifier: str = sent["generation"]["id"]
        return identifier

    def stream(
        self,
        path: str,
        *,
        last: str | None = None,
        node: Node | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The open response, as an async context manager."""
        headers = dict(headers or {})
        if last is not None:
            headers["Last-Event-ID"] = last
        return self.session.get((node or self.node).base + path, headers=self.headers(**headers))

    async def events(
        self, generation: str, *, last: str | None = None, node: Node | None = None, until: int | None = None
    ) -> list[Event]:
        """What a reader gets, to the end of the stream or until it has `until` events."""
        found: list[Event] = []
        async with self.stream(f"/api/v1/generations/{generation}/stream", last=last, node=node) as response:
            if response.status == 204:
                return found
            assert response.status == 200, (response.status, await response.text())
            async for event in read_events(response):
                found.append(event)
                if until is not None and len(found) >= until:
                    break
        return found

    async def messages(self, chat: str) -> list[dict[str, Any]]:
        status, body = await self.request("GET", f"/api/v1/chats/{chat}/messages?branch=all")
        assert status == 200, body
        found: list[dict[str, Any]] = body
        return found


def text_of(events: list[Event]) -> str:
    """What a person sees after these events."""
    text = ""
    for event in events:
        if event["type"] == "token":
            text += event["content"]
        elif event["type"] == "reset":
            text = event["content"]
    return text
