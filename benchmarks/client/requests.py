"""Closed loops of ordinary requests on keep-alive connections."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import cycle
from typing import cast

from benchmarks.client.plan import Outcome, Plan, Target
from benchmarks.client.stream import request_head
from benchmarks.quantiles import spread_of

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def whole_response(data: bytes) -> bool:
    """Whether `data` holds one response to its end: by its length, or by the last chunk."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    if match := _LENGTH.search(data, 0, head):
        return len(data) >= head + 4 + int(match[1])
    return data.endswith(b"0\r\n\r\n")


class Tally:
    """Latencies and errors of all connections."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.latencies: list[float] = []
        self.errors: dict[str, int] = {}
        self.total = 0
        self.bytes = 0

    def count(self, began: float, ended: float, response: bytes) -> None:
        self.total += 1
        if not response.startswith(b"HTTP/1.1 2"):
            key = f"status {response[9:12].decode()}"
            self.errors[key] = self.errors.get(key, 0) + 1
        elif self.plan.window_from <= ended < self.plan.window_to:
            self.latencies.append(ended - began)
            self.bytes = len(response)


class Requester(asyncio.Protocol):
    """One connection: asks, waits for the whole answer, asks again."""

    def __init__(self, tally: Tally, requests: list[bytes], offset: int) -> None:
        self._tally = tally
        self._requests = cycle(requests[offset:] + requests[:offset])
        self._response = b""
        self._began = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        if self.transport.is_closing():
            return
        self._response = b""
        self._began = time.monotonic()
        self.transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._response += data
        if not whole_response(self._response):
            return
        now = time.monotonic()
        plan = self._tally.plan
        self._tally.count(self._began, now, self._response)
        if now >= plan.window_to:
            self.transport.close()
        elif plan.pause:
            asyncio.get_running_loop().call_later(plan.pause, self._ask)
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            name = type(exc).__name__
            self._tally.errors[name] = self._tally.errors.get(name, 0) + 1
        if not self.closed.done():
            self.closed.set_result(None)


def _request(plan: Plan, target: Target) -> bytes:
    body = plan.body.encode()
    return request_head("POST" if body else "GET", target, len(body), accept="application/json") + body


async def run_requests(plan: Plan) -> Outcome:
    """Keep `connections` requests under way until the window ends."""
    loop = asyncio.get_running_loop()
    tally = Tally(plan)
    requests = [_request(plan, target) for target in plan.targets]
    if (wait := plan.start - time.monotonic()) > 0:
        await asyncio.sleep(wait)
    requesters = []
    for index in range(plan.connections):
        _, requester = await loop.create_connection(
            lambda: Requester(tally, requests, index % len(requests)),  # noqa: B023 - called within this turn
            "127.0.0.1",
            plan.port,
        )
        requesters.append(requester)
    remaining = max(0.1, plan.deadline - time.monotonic())
    await asyncio.wait([requester.closed for requester in requesters], timeout=remaining)
    for requester in requesters:
        requester.transport.abort()
    return Outcome(
        answers=len(tally.latencies),
        opened=tally.total,
        complete=tally.total - sum(tally.errors.values()),
        errors=tally.errors,
        latency=spread_of(tally.latencies, scale=1000),
        tokens=tally.bytes,
    )
