"""One answer of the scripted server on the wire, in either protocol, with its faults."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Literal, Protocol

import msgspec

from llmchatbot.llm.decoder import MAX_LINE
from llmchatbot.llm.pace import paced
from llmchatbot.llm.script import Script

CANARY = "upstream-canary-4711"
"""Stands in every refusal, so that a test can look for it where it must never appear."""

Kind = Literal["ndjson", "openai"]


class Sink(Protocol):
    """The connection that an answer is written to."""

    def begin(self, kind: Kind) -> None:
        """Send the head of a stream."""

    async def write(self, data: bytes) -> None:
        """Write one HTTP chunk, and wait while the reader is slow."""

    def count(self, tokens: int) -> None:
        """Count tokens sent."""

    def end(self) -> None:
        """Send the last chunk of a stream."""

    def cut(self) -> None:
        """Break the connection."""

    def page(self) -> None:
        """Send a web page where a stream was asked for."""

    def refuse(self, status: int) -> None:
        """Send a refusal."""


class ScriptedAnswer:
    """One answer on the wire, with its faults."""

    def __init__(self, connection: Sink, kind: Kind, script: Script, prefix: str, limit: int | None) -> None:
        self._connection = connection
        self._kind: Kind = kind
        self._script = script
        self._prefix = prefix
        self._limit = limit

    async def run(self) -> None:
        """Answer as the script says."""
        script, connection = self._script, self._connection
        if script.fault and not script.fault_at and await self._instead():
            return
        connection.begin(self._kind)
        pieces = list(script.remaining(self._prefix))
        breaks = bool(script.fault_at) and script.fault_at <= len(pieces)
        end = script.fault_at if breaks else len(pieces)
        if self._limit is not None and self._limit < end:
            end, breaks = self._limit, False
        if script.reasoning and not self._prefix and self._kind == "openai":
            await connection.write(b"".join(self._reasoning(f"r{number} ") for number in range(script.reasoning)))
        async with aclosing(paced(pieces[:end], script.rate, script.first)) as batches:
            async for batch in batches:
                await self._write(b"".join(self._token(script.stamped(piece)) for piece in batch))
                connection.count(len(batch))
        if breaks and await self._within():
            return
        if script.fault != "noend":
            whole = self._prefix + "".join(pieces[:end])
            await self._write(self._closing(whole, end, "length" if end < len(pieces) else "stop"))
        connection.end()

    async def _write(self, data: bytes) -> None:
        if self._script.fault != "utf8split":
            await self._connection.write(data)
            return
        for byte in data:
            await self._connection.write(bytes((byte,)))
            await asyncio.sleep(0)

    async def _instead(self) -> bool:
        """The faults that come instead of a stream; False when the script's fault is none of them."""
        connection, (kind, _, status) = self._connection, self._script.fault.partition(":")
        if kind == "refuse":
            connection.cut()
        elif kind == "html":
            connection.page()
        elif kind == "status":
            connection.refuse(int(status))
        elif kind == "stall":
            await asyncio.Event().wait()
        elif kind in {"cut", "garbage", "error", "hugeline"}:
            connection.begin(self._kind)
            return await self._within()
        else:
            return False
        return True

    async def _within(self) -> bool:
        """The faults in the middle of a stream; True when nothing may follow."""
        connection, kind = self._connection, self._script.fault
        if kind == "stall":
            await asyncio.Event().wait()
        elif kind == "cut":
            connection.cut()
        elif kind == "garbage":
            await connection.write(self._frame(b'{"choices":[{"delta":{"content":\x00\xff\xfe'))
        elif kind == "hugeline":
            await connection.write(self._frame(b'{"junk":"' + b"x" * (10 * MAX_LINE) + b'"}'))
        elif kind == "error":
            await connection.write(self._error())
        return kind in {"stall", "cut"}

    def _frame(self, data: bytes) -> bytes:
        return b"data: %b\n\n" % data if self._kind == "openai" else data + b"\n"

    def _token(self, piece: str) -> bytes:
        text = msgspec.json.encode(piece)
        if self._kind == "openai":
            return (
                b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"scripted",'
                b'"choices":[{"index":0,"delta":{"content":%b},"finish_reason":null}]}\n\n' % text
            )
        return b'{"type":"token","content":%b,"tokens":1}\n' % text

    def _reasoning(self, piece: str) -> bytes:
        text = msgspec.json.encode(piece)
        return self._frame(b'{"choices":[{"index":0,"delta":{"reasoning_content":%b},"finish_reason":null}]}' % text)

    def _error(self) -> bytes:
        if self._kind == "openai":
            return self._frame(msgspec.json.encode({"error": {"message": CANARY, "code": 500}}))
        return self._frame(msgspec.json.encode({"type": "error", "content": CANARY}))

    def _closing(self, whole: str, tokens: int, reason: str) -> bytes:
        if self._kind == "ndjson":
            return self._frame(msgspec.json.encode({"type": "complete", "content": whole, "tokens": tokens}))
        frames = self._frame(b'{"choices":[{"index":0,"delta":{},"finish_reason":"%b"}]}' % reason.encode())
        if self._script.usage:
            frames += self._frame(b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":%d}}' % tokens)
        return frames + b"data: [DONE]\n\n"
