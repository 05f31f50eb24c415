"""A model provider that costs next to nothing: OpenAI's chat-completions stream at a fixed rate, each token stamped.

Run as `python -m benchmarks.upstream --port 0 --stamps FILE`; the port it got is its first line of output.

The last user message says how to answer: `rate=50 tokens=300`. What it says, and how a reader knows when it was said,
stands in `speech`.

Every stream has a phase of its own (the moment it was asked) and every chunk its own TCP segment, as with real
providers. One timer a millisecond serves all streams.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from benchmarks import speech
from benchmarks.speech import Stamps

TICK = 0.001
"""Seconds between two looks at the streams; the precision of the rate, not of the stamps."""

_ASKED = re.compile(rb"rate=(\d+) tokens=(\d+)")

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_CHANCE = random.Random(8)
_LETTERS = string.ascii_letters.encode() + string.digits.encode()
_MODELS = b'{"object":"list","data":[{"id":"scripted","object":"model","owned_by":"benchmark"}]}'


def _frame(body: bytes) -> bytes:
    """One event as one HTTP chunk."""
    event = b"data: " + body + b"\n\n"
    return b"%x\r\n" % len(event) + event + b"\r\n"


def _filler() -> bytes:
    return bytes(_CHANCE.choices(_LETTERS, k=_CHANCE.randint(1, 16)))


def _chunk(delta: bytes, finish: bytes = b"null") -> bytes:
    """What OpenAI sends for one token, all its fields (some 360 bytes), with a filler that hides the token's length."""
    return _frame(
        b'{"id":"chatcmpl-BenchmarkBenchmarkBenchmark","object":"chat.completion.chunk","created":1790000000,'
        b'"model":"gpt-benchmark-2026-01-01","service_tier":"default","system_fingerprint":"fp_0123456789",'
        b'"choices":[{"index":0,"delta":' + delta + b',"logprobs":null,"finish_reason":' + finish + b"}],"
        b'"obfuscation":"%b"}' % _filler()
    )


_FIRST = _chunk(b'{"role":"assistant","content":"","refusal":null}')
_CHUNKS = {word: _chunk(b'{"content":"%b"}' % word) for word in speech.TEXT}
"""Made once: the source shall cost little."""
_LAST = _chunk(b"{}", b'"stop"')
_DONE = _frame(b"[DONE]") + b"0\r\n\r\n"


def _usage(tokens: int) -> bytes:
    return _frame(
        b'{"id":"chatcmpl-BenchmarkBenchmarkBenchmark","object":"chat.completion.chunk","created":1790000000,'
        b'"model":"gpt-benchmark-2026-01-01","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":%d,'
        b'"total_tokens":%d}}' % (tokens, tokens + 20)
    )


class Counters(msgspec.Struct):
    """What the upstream saw, at `GET /counters`."""

    requests: int = 0
    tokens: int = 0
    aborted: int = 0
    worst_late_ms: int = 0


class Answer:
    """One stream being sent."""

    __slots__ = ("due", "number", "period", "sent", "tokens", "transport", "with_usage")

    def __init__(self, transport: asyncio.Transport, number: int, rate: int, tokens: int, *, with_usage: bool) -> None:
        self.transport = transport
        self.number = number
        self.tokens = tokens
        self.sent = 0
        self.period = max(1, round(1 / (rate * TICK)))
        self.with_usage = with_usage
        self.due = 0


class Metronome:
    """Sends every stream's next token when its time has come."""

    def __init__(self, counters: Counters, stamps: Stamps) -> None:
        self.counters = counters
        self._stamps = stamps
        self._due: dict[int, list[Answer]] = {}
        self._tick = 0
        self._origin = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._origin = loop.time()
        self._schedule()

    def add(self, answer: Answer) -> None:
        """The first token goes out at the next tick: what a reader waits for is the relay's doing."""
        self._put(answer, self._tick + 1)

    def _put(self, answer: Answer, tick: int) -> None:
        answer.due = tick
        self._due.setdefault(tick, []).append(answer)

    def _schedule(self) -> None:
        # A whole tick, never the rest of one: the loop's clock counts whole milliseconds; to wait for less is to spin.
        self._loop.call_later(TICK, self._beat)

    def _beat(self) -> None:
        now = int((self._loop.time() - self._origin) / TICK)
        self.counters.worst_late_ms = max(self.counters.worst_late_ms, now - self._tick - 1)
        while self._tick < now:
            self._tick += 1
            for answer in self._due.pop(self._tick, ()):
                self._send(answer)
        self._schedule()

    def _send(self, answer: Answer) -> None:
        transport = answer.transport
        if transport.is_closing():
            return
        word = speech.token(answer.number, answer.sent)
        chunk = _CHUNKS.get(word) or _chunk(b'{"content":"%b"}' % word)
        self._stamps.set(answer.number, answer.sent)
        transport.write(chunk)
        self.counters.tokens += 1
        answer.sent += 1
        if answer.sent < answer.tokens:
            self._put(answer, answer.due + answer.period)
            return
        transport.write(_LAST + (_usage(answer.tokens) if answer.with_usage else b"") + _DONE)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as clients of this upstream need it."""

    def __init__(self, metronome: Metronome) -> None:
        self._metronome = metronome
        self._buffer = b""
        self._answer: Answer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and self._answer.sent < self._answer.tokens:
            self._metronome.counters.aborted += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            match = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            length = int(match[1]) if match else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._handle(head, body)

    def _handle(self, head: bytes, body: bytes) -> None:
        target = head.split(b" ", 2)[1]
        if head.startswith(b"POST") and target.endswith(b"/chat/completions"):
            self._stream(body)
        elif target == b"/counters":
            self._plain(msgspec.json.encode(self._metronome.counters))
        elif target.endswith(b"/models"):
            self._plain(_MODELS)
        else:
            self._plain(b'{"status":"ok"}')

    def _plain(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

    def _stream(self, body: bytes) -> None:
        asked = _ASKED.findall(body)
        rate, tokens = (int(number) for number in asked[-1]) if asked else (50, 50)
        counters = self._metronome.counters
        counters.requests += 1
        self._transport.write(_HEAD + _FIRST)
        if rate == 0:
            return  # an upstream that thinks and thinks: for idle streams
        with_usage = b'"include_usage":true' in body
        self._answer = Answer(self._transport, counters.requests, rate, tokens, with_usage=with_usage)
        self._metronome.add(self._answer)


async def serve(port: int, stamps: Stamps, announce: Callable[[int], None]) -> None:
    """Answers until cancelled. `announce` gets the port once the socket listens."""
    loop = asyncio.get_running_loop()
    metronome = Metronome(Counters(), stamps)
    server = await loop.create_server(lambda: Connection(metronome), "127.0.0.1", port, backlog=4096)
    metronome.start(loop)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stamps", type=Path, required=True, help="file of the moments, shared with the readers")
    arguments = parser.parse_args()

    def announce(port: int) -> None:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()

    uvloop.run(serve(arguments.port, Stamps(arguments.stamps), announce))


if __name__ == "__main__":
    main()
