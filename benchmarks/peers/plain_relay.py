"""Our own relay without the log: the product's server, client and decoder, and nothing else. The lower bound for us.

No account, no database, no limit on what piles up for a slow reader: one frame per token, sent as soon as it is there.
"""

import asyncio
import os
import socket
import sys
from typing import Any

import msgspec
import uvloop

from llmchatbot.errors import AppError
from llmchatbot.http_server.server import HttpServer
from llmchatbot.llm.decoder import SseDecoder
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.transport import HttpRequest, HttpTransport
from llmchatbot.serving import tame_garbage_collector


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
        self._endpoint = Endpoint(url=f"{upstream}/v1")
        self._transport = HttpTransport()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/health":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._relay(_MESSAGE.decode(body).content, scope["extensions"]["outlet"].push)
        await send({"type": "http.response.body", "body": b""})

    async def _relay(self, content: str, push: Any) -> None:
        prompt = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": content}]}
        request = HttpRequest(
            endpoint=self._endpoint,
            url=self._endpoint.join("chat/completions"),
            headers={"Content-Type": "application/json"},
            body=_ENCODER.encode(prompt),
        )
        parts: list[str] = []
        decoder = SseDecoder()

        def take(piece: bytes) -> bool:
            for _, data in decoder.feed(piece):
                if data == b"[DONE]":
                    push(_event(Frame("complete", "".join(parts), len(parts))))
                    return True
                choices = _CHUNK.decode(data).choices
                if choices and (token := choices[0].delta.content):
                    parts.append(token)
                    push(_event(Frame("token", token)))
            return False

        stream = await self._transport.open(request)
        try:
            await stream.relay(take)
        finally:
            await stream.aclose()


def _refusal(error: AppError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [], error.code.encode()


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as bound:
        bound.setblocking(False)
        server = HttpServer(
            Relay(os.environ["UPSTREAM_URL"]), refusal=_refusal, head_seconds=60, head_bytes=16384, send_seconds=30
        )
        await server.listen(bound)
        tame_garbage_collector()
        sys.stdout.write(f"{bound.getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
