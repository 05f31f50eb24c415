"""Our own relay without the log: the same server, client and decoder parts, and nothing stored. The lower bound for us.

Raw ASGI on granian, aiohttp for bytes, msgspec for JSON, one frame per token, sent as soon as it is there.
"""

import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Delta(msgspec.Struct, gc=False):
    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice]


class Message(msgspec.Struct):
    content: str


class Frame(msgspec.Struct, gc=False):
    type: str
    content: str
    tokens: int = 0


_CHUNK = msgspec.json.Decoder(Chunk)
_MESSAGE = msgspec.json.Decoder(Message)
_ENCODER = msgspec.json.Encoder()
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


def _event(frame: Frame) -> bytes:
    return b"data: " + _ENCODER.encode(frame) + b"\n\n"


class Relay:
    """The ASGI application."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/health":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._relay(_MESSAGE.decode(body).content, send)

    async def _relay(self, content: str, send: Send) -> None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        prompt = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": content}]}
        parts: list[str] = []
        rest = b""
        async with self._session.post(
            f"{self._upstream}/v1/chat/completions",
            data=_ENCODER.encode(prompt),
            headers={"Content-Type": "application/json"},
        ) as response:
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                out = b"".join(self._frames(events, parts))
                if out:
                    await send({"type": "http.response.body", "body": out, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    @staticmethod
    def _frames(events: list[bytes], parts: list[str]) -> list[bytes]:
        out = []
        for event in events:
            payload = event[6:]
            if payload == b"[DONE]":
                out.append(_event(Frame("complete", "".join(parts), len(parts))))
                continue
            choices = _CHUNK.decode(payload).choices
            if choices and (token := choices[0].delta.content):
                parts.append(token)
                out.append(_event(Frame("token", token)))
        return out


def load() -> Relay:
    """What granian calls in its worker process."""
    return Relay(os.environ["UPSTREAM_URL"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    port = _free_port()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    Granian(
        "plain_relay:load",
        factory=True,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        backlog=4096,
        backpressure=4096,
        log_enabled=False,
        working_dir=Path(__file__).parent,
    ).serve()
