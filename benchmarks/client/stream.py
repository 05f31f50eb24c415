"""One event stream over HTTP/1.1, read as cheaply as Python can: a protocol and a regular expression."""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections.abc import Callable
from typing import cast

import msgspec

from benchmarks import speech
from benchmarks.client.plan import Plan, Target
from benchmarks.speech import MASK, Stamps

_TEXT = re.compile(rb'"content": ?"( [^"]*)"')
_NUMBER = re.compile(rb" a(\d+)")
_GENERATION = re.compile(rb'"generation_id":"([0-9a-f-]{36})"')
_EVENT_ID = re.compile(rb"(?m)^id: ?(\S+)$")


class Meter:
    """Counts for one window, shared by all streams of the process."""

    def __init__(self, plan: Plan, stamps: Stamps) -> None:
        self.stamps = stamps
        self.window = (round(plan.window_from * 1e6), round(plan.window_to * 1e6))
        self.delays = array("I")
        self.first_tokens: list[float] = []
        self.per_slot = array("I", [0] * len(plan.targets))
        self.ended = 0
        self.opened = 0
        self.complete = 0
        self.incomplete = 0
        self.errors: dict[str, int] = {}

    def inside(self, at_us: int) -> bool:
        """Whether a moment (microseconds, not wrapped) lies within the window."""
        return self.window[0] <= at_us < self.window[1]

    def fail(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1


def post(target: Target, rate: int, tokens: int) -> bytes:
    """The request that asks for one answer."""
    body = msgspec.json.encode({"content": f"rate={rate} tokens={tokens}"})
    return request_head("POST", target, len(body)) + body


def request_head(method: str, target: Target, length: int = 0, *, accept: str = "text/event-stream") -> bytes:
    """An HTTP/1.1 head, with bearer token and length where there are any."""
    lines = [f"{method} {target.path} HTTP/1.1", "Host: 127.0.0.1", f"Accept: {accept}"]
    if target.authorization:
        lines.append(f"Authorization: {target.authorization}")
    if method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class EventStream(asyncio.Protocol):
    """Reads one answer to its end, or until cut. `on_end` is called once, with itself."""

    def __init__(
        self,
        meter: Meter,
        slot: int,
        request: bytes,
        expected: int,
        on_end: Callable[[EventStream], None],
        *,
        on_start: Callable[[EventStream], None] | None = None,
    ) -> None:
        self._meter = meter
        self.slot = slot
        self._request = request
        self._on_end = on_end
        self._on_start = on_start
        self._buffer = b""
        self.headed = False
        self._asked_us = 0
        self.expected = expected
        self.whole = expected
        """Tokens of the whole answer, as its final text must have them; `expected` are those due on this connection."""
        self.received = 0
        self.number = -1
        """Of the answer, as the source counts; it says what the text must be."""
        self.before = 0
        """Tokens that came on an earlier connection."""
        self.text = b""
        """The whole answer, as it must be."""
        self._heard = 0
        self.ordered = True
        """Everything until now was what had to come."""
        self.ended_whole = False
        """The last event had the whole text."""
        self.generation = ""
        self.event_id = ""
        self.cut = False
        self.first_at = 0.0
        """Monotonic seconds of the first new token on this connection; 0 before."""
        self.keep_event_ids = False
        """Whether the cursor is followed; costs a search per read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.cut:
            self.transport.abort()
            return
        self._asked_us = time.monotonic_ns() // 1000
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._buffer or not self.headed or not data.endswith((b"\n\n", b"\n\n\r\n")):
            data = self._whole_blocks(self._buffer + data)
            if not data:
                return
        final = data.find(b'"complete"')
        if final >= 0:
            final = data.rfind(b"\n\n", 0, final) + 1
            self._take(data[:final])
            self._finish(data[final:])
            return
        self._take(data)
        if b'"error"' in data:
            self._meter.fail("error event")
            self.transport.close()
        elif b"data: [DONE]" in data:  # the upstream itself, asked directly
            self.ended_whole = True
            self.transport.close()

    def _whole_blocks(self, data: bytes) -> bytes:
        """What of `data` ends in a whole block; the rest is kept for the next read."""
        if not self.headed:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return b""
            self.headed = True
            if not data.startswith(b"HTTP/1.1 2"):
                self._meter.fail(f"status {data[9:12].decode()}")
                self.transport.close()
                return b""
            data = data[end + 4 :]
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._buffer = data
            return b""
        self._buffer = data[end:]
        return data[:end]

    def _identify(self, data: bytes) -> None:
        if match := _GENERATION.search(data):
            self.generation = match[1].decode()
            if self._on_start is not None:
                self._on_start(self)

    def _take(self, data: bytes) -> None:
        if not self.generation:
            self._identify(data)
        if self.keep_event_ids and (ids := _EVENT_ID.findall(data)):
            self.event_id = ids[-1].decode()
        said = b"".join(_TEXT.findall(data))
        if not said:
            return
        at_us = time.monotonic_ns() // 1000
        if self.number < 0 and (match := _NUMBER.match(said)):
            self.follow(int(match[1]))
        count = said.count(b" ")
        if not self.text.startswith(said, self._heard):
            self.ordered = False
        self._heard += len(said)
        meter = self._meter
        if meter.window[0] <= at_us < meter.window[1]:
            meter.per_slot[self.slot] += count
            if self.ordered:
                sent = meter.stamps.of(self.number, self.before + self.received, count)
                meter.delays.extend((at_us - moment) & MASK for moment in sent)
        if not self.received:
            self._first(at_us)
        self.received += count

    def follow(self, number: int, before: int = 0) -> None:
        """It is the source's answer `number`, of which `before` tokens came before."""
        self.number = number
        self.before = before
        self.text = speech.answer(number, self.whole)
        self._heard = len(speech.answer(number, before))

    def _first(self, at_us: int) -> None:
        self.first_at = at_us / 1e6
        if self._meter.inside(self._asked_us):
            self._meter.first_tokens.append((at_us - self._asked_us) / 1e6)

    def _finish(self, block: bytes) -> None:
        self.ended_whole = b'"%b"' % self.text in block
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        meter = self._meter
        if not self.cut:
            if self.received == self.expected and self.ended_whole and self.ordered:
                meter.complete += 1
            else:
                meter.incomplete += 1
                if not self.ended_whole and exc is not None:
                    meter.fail(type(exc).__name__)
            if meter.inside(time.monotonic_ns() // 1000):
                meter.ended += 1
        self._on_end(self)

    def abort(self) -> None:
        """Cut the connection, as a network does; one that was not made yet never will be."""
        self.cut = True
        if self._asked_us:
            self.transport.abort()
