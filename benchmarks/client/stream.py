"""One event stream over HTTP/1.1, read as cheaply as Python can: a protocol and a regular expression."""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections.abc import Callable
from typing import cast

import msgspec

from benchmarks.client.plan import Plan, Target

_STAMP = re.compile(rb" x([0-9a-f]{8})")
_GENERATION = re.compile(rb'"generation_id":"([0-9a-f-]{36})"')
_EVENT_ID = re.compile(rb"(?m)^id: ?(\S+)$")
_MASK = 0xFFFFFFFF


def now_us() -> int:
    """The clock of the stamps."""
    return time.monotonic_ns() // 1000 & _MASK


class Meter:
    """Counts for one window, shared by all streams of the process."""

    def __init__(self, plan: Plan) -> None:
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
        self.last_stamp = -1
        self.ordered = True
        self.final_tokens = -1
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
            self.final_tokens = self.received
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
        stamps = _STAMP.findall(data)
        if not stamps:
            return
        at_us = time.monotonic_ns() // 1000
        meter = self._meter
        inside = meter.window[0] <= at_us < meter.window[1]
        for text in stamps:
            stamp = int(text, 16)
            if self.last_stamp >= 0 and (stamp - self.last_stamp) & _MASK > _MASK // 2:
                self.ordered = False
            self.last_stamp = stamp
            if inside:
                meter.delays.append((at_us - stamp) & _MASK)
        if inside:
            meter.per_slot[self.slot] += len(stamps)
        if not self.received:
            self._first(at_us)
        self.received += len(stamps)

    def _first(self, at_us: int) -> None:
        self.first_at = at_us / 1e6
        if self._meter.inside(self._asked_us):
            self._meter.first_tokens.append((at_us - self._asked_us) / 1e6)

    def _finish(self, block: bytes) -> None:
        self.final_tokens = len(_STAMP.findall(block))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        meter = self._meter
        if not self.cut:
            whole = self.received == self.expected and self.final_tokens == self.whole and self.ordered
            if whole:
                meter.complete += 1
            else:
                meter.incomplete += 1
                if self.final_tokens < 0 and exc is not None:
                    meter.fail(type(exc).__name__)
            if meter.inside(time.monotonic_ns() // 1000):
                meter.ended += 1
        self._on_end(self)

    def abort(self) -> None:
        """Cut the connection, as a network does; one that was not made yet never will be."""
        self.cut = True
        if self._asked_us:
            self.transport.abort()
