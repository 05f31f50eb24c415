"""A server with a small application on a free port of this machine, in the test's own event loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from raw_http import RawConnection

from llmchatbot.errors import AppError
from llmchatbot.http_server.server import Application, HttpServer

HEAD_BYTES = 16 * 1024


def refusal(error: AppError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(b"content-type", b"text/plain")], error.code.encode()


class Running:
    """The server, and what its application saw."""

    def __init__(self) -> None:
        self.server: HttpServer
        self.port = 0
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

        self._connections: list[RawConnection] = []

    async def connect(self) -> RawConnection:
        """Closed at the end of the test."""
        connection = await RawConnection.open(self.port)
        self._connections.append(connection)
        return connection

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        await self.server.close(timeout=1)


async def read_body(receive: Callable[[], Awaitable[Any]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def answer(send: Any, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(application, head_seconds=…, send_seconds=…)`."""
    running = Running()

    async def start(
        application: Application | None = None, *, head_seconds: float = 5.0, send_seconds: float = 5.0
    ) -> Running:
        async def echo(scope: Any, receive: Any, send: Any) -> None:
            running.seen.append(scope)
            running.bodies.append(await read_body(receive))
            await answer(send, running.bodies[-1] or scope["path"].encode())

        running.server = HttpServer(
            application or echo,
            refusal=refusal,
            head_seconds=head_seconds,
            head_bytes=HEAD_BYTES,
            send_seconds=send_seconds,
        )
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            running.port = bound.getsockname()[1]
            await running.server.listen(bound)
        return running

    yield start
    await running.close()
