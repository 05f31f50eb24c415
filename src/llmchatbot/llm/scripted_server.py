"""The scripted model as an upstream of its own: `python -m llmchatbot.llm.scripted_server --port 0`.

Speaks the NDJSON contract (`/api/v1/generate/stream`, `/health`) and OpenAI's chat completions (`/v1/chat/completions`,
`/v1/models`), breaks as the script says (`script`), and counts, so that a test can prove that a connection was closed:
`GET /__stats`. Written on bare asyncio, because a drill's upstream must cost less than what it drills.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from typing import Any, Self, cast

import msgspec

from llmchatbot.errors import ModelError
from llmchatbot.llm.port import PromptMessage
from llmchatbot.llm.script import Script, parse, script_of
from llmchatbot.llm.scripted_answer import CANARY, Kind, ScriptedAnswer

_MAX_BODY = 16 << 20
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}


class _OpenAiBody(msgspec.Struct):
    messages: list[PromptMessage]
    model: str = ""
    max_tokens: int | None = None


class _NdjsonBody(msgspec.Struct):
    prompt: str
    history: list[PromptMessage] = []
    model: str = ""


class Stats(msgspec.Struct):
    """What the server has seen. `aborted` counts answers whose reader left before the end."""

    connections: int = 0
    open_connections: int = 0
    requests: int = 0
    running: int = 0
    finished: int = 0
    aborted: int = 0
    tokens: int = 0


class ScriptedServer:
    """The server. `async with ScriptedServer(...) as server:` gives `server.url`."""

    def __init__(self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0, key: str = "") -> None:
        self.script = script or Script(rate=50)
        self.stats = Stats()
        self.key = key
        self.bodies: list[dict[str, Any]] = []
        """The request bodies, newest last; at most 100."""
        self.headers: list[dict[str, str]] = []
        self.calls: Counter[Script] = Counter()
        self.transports: set[asyncio.Transport] = set()
        self.all_closed = asyncio.Event()
        """Set while no connection is open."""
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self._host, self._port, backlog=4096)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for transport in list(self.transports):
                transport.abort()
            await self._server.wait_closed()

    async def serve_forever(self) -> None:
        """Until cancelled."""
        if self._server is not None:
            await self._server.serve_forever()


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self._server.transports.add(self._transport)
        self._server.stats.connections += 1
        self._server.stats.open_connections += 1
        self._server.all_closed.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.transports.discard(self._transport)
        self._server.stats.open_connections -= 1
        if not self._server.transports:
            self._server.all_closed.set()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next_request()

    def _next_request(self) -> None:
        head, mark, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not mark:
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0") or 0)
        if length > _MAX_BODY:
            self._transport.abort()
            return
        if len(rest) < length:
            return
        del self._buffer[: len(head) + 4 + length]
        method, path, *_ = request_line.split(" ")
        self._server.stats.requests += 1
        self._server.headers.append(headers)
        del self._server.headers[:-100]
        self._task = asyncio.get_running_loop().create_task(self._answer(method, path, headers, rest[:length]))
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "scripted server", "exception": error})
            self._transport.abort()
        elif not self._transport.is_closing():
            self._next_request()

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        server = self._server
        path = path.partition("?")[0]
        if path == "/__stats":
            self._send(200, msgspec.json.encode(server.stats))
        elif server.key and headers.get("authorization") != f"Bearer {server.key}":
            self._refuse(401)
        elif path == "/health":
            self._send(200, b'{"status":"ok","model_loaded":true,"device":"scripted"}')
        elif path == "/v1/models":
            self._send(200, b'{"object":"list","data":[{"id":"scripted","object":"model"}]}')
        elif method == "POST" and path in {"/api/v1/generate/stream", "/v1/chat/completions"}:
            await self._generate("openai" if path.startswith("/v1/") else "ndjson", body)
        else:
            self._refuse(404)
        if headers.get("connection", "").lower() == "close":
            self._transport.close()

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'X')}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)

    def _refuse(self, status: int) -> None:
        self._send(status, msgspec.json.encode({"error": {"message": CANARY, "type": "scripted"}}))

    async def _generate(self, kind: Kind, body: bytes) -> None:
        try:
            messages, limit = _read(kind, body)
            script = script_of(messages, self._server.script)
        except (msgspec.DecodeError, UnicodeDecodeError, ModelError):
            self._refuse(400)
            return
        server = self._server
        server.bodies.append(msgspec.json.decode(body))
        del server.bodies[:-100]
        prefix = messages[-1].content if messages and messages[-1].role == "assistant" else ""
        server.calls[script] += 1
        if server.calls[script] <= script.fails:
            self._refuse(503)
            return
        server.stats.running += 1
        try:
            await ScriptedAnswer(self, kind, script, prefix, limit).run()
        except asyncio.CancelledError:
            server.stats.aborted += 1
            raise
        else:
            server.stats.finished += 1
        finally:
            server.stats.running -= 1

    async def write(self, data: bytes) -> None:
        """Write one HTTP chunk, and wait while the reader is slow."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        if not self._writable.is_set():
            await self._writable.wait()

    def begin(self, kind: Kind) -> None:
        """Send the head of a stream."""
        media = "text/event-stream; charset=utf-8" if kind == "openai" else "application/x-ndjson"
        self._transport.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    def end(self) -> None:
        """Send the last chunk of a stream."""
        self._transport.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Break the connection."""
        self._transport.abort()

    def page(self) -> None:
        """Send a web page where a stream was asked for."""
        self._send(200, f"<!doctype html><title>{CANARY}</title>".encode(), "text/html")

    def refuse(self, status: int) -> None:
        """Send a refusal."""
        self._refuse(status)

    def count(self, tokens: int) -> None:
        """Count tokens sent."""
        self._server.stats.tokens += tokens


def _read(kind: Kind, body: bytes) -> tuple[tuple[PromptMessage, ...], int | None]:
    if kind == "openai":
        chat = msgspec.json.decode(body, type=_OpenAiBody)
        return tuple(chat.messages), chat.max_tokens
    request = msgspec.json.decode(body, type=_NdjsonBody)
    return (*request.history, PromptMessage(role="user", content=request.prompt)), None


async def serve(script: Script, host: str, port: int, key: str) -> None:
    """Serve until cancelled; the first line on standard output is the URL."""
    async with ScriptedServer(script, host=host, port=port, key=key) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await server.serve_forever()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A scripted LLM service for tests, drills and benchmarks.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the URL is printed")
    parser.add_argument("--script", default="rate=50", help="default script, e.g. 'rate=50 tokens=100'")
    parser.add_argument("--key", default="", help="API key that callers must send")
    options = parser.parse_args(arguments)
    try:
        import uvloop as loops  # noqa: PLC0415 - absent on Windows
    except ImportError:
        run = asyncio.run
    else:
        run = loops.run
    try:
        run(serve(parse(options.script, Script()), options.host, options.port, options.key))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
