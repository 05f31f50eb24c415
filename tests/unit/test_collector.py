"""Connections that are read in turns, when somebody asks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from llmchatbot.llm.collector import Collector

pytestmark = pytest.mark.skipif(not hasattr(os, "uname") or os.uname().sysname != "Linux", reason="needs epoll")


class Line:
    """One connection with both its ends."""

    def __init__(self, collector: Collector) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.collector = collector
        self.pieces: list[bytes] = []
        self.ebbed = 0
        self.closed = False
        self.faulty = False
        self.arrived = asyncio.Event()
        assert collector.add(self.near.fileno(), self)

    def data_received(self, data: bytes) -> None:
        if self.faulty:
            raise ZeroDivisionError
        self.pieces.append(data)
        self.arrived.set()

    def ebb(self) -> None:
        self.ebbed += 1
        self.collector.remove(self.near.fileno(), self)

    def close(self) -> None:
        self.closed = True
        self.collector.remove(self.near.fileno(), self)
        self.near.close()


@pytest.fixture
async def arrivals() -> list[int]:
    return []


@pytest.fixture
async def collector(arrivals: list[int]) -> AsyncIterator[Collector]:
    made = Collector()
    made.use(lambda: arrivals.append(1))
    yield made
    made.close()


@pytest.fixture
def line(collector: Collector) -> Iterator[Callable[[], Line]]:
    lines: list[Line] = []

    def make() -> Line:
        lines.append(Line(collector))
        return lines[-1]

    yield make
    for made in lines:
        made.near.close()
        made.far.close()


async def told(arrivals: list[int], times: int) -> None:
    async with asyncio.timeout(5):
        while len(arrivals) < times:  # noqa: ASYNC110 # a turn of the loop, not a wait
            await asyncio.sleep(0)


async def test_nothing_is_read_before_somebody_asks_and_the_news_are_told_once(
    collector: Collector, arrivals: list[int], line: Callable[[], Line]
) -> None:
    one, two = line(), line()
    one.far.send(b"a")
    two.far.send(b"a")
    await told(arrivals, 1)
    assert (one.pieces, two.pieces) == ([], [])
    one.far.send(b"b")
    collector.collect()
    assert (one.pieces, two.pieces) == ([b"ab"], [b"a"])
    assert len(arrivals) == 1
    collector.collect()
    two.far.send(b"c")
    await told(arrivals, 2)


async def test_what_comes_after_a_look_that_found_something_is_read_without_being_told(
    collector: Collector, arrivals: list[int], line: Callable[[], Line]
) -> None:
    """Among many answers each look finds something, and to wait for the kernel's word costs more than to look again."""
    one = line()
    one.far.send(b"a")
    collector.collect()
    one.arrived.clear()
    one.far.send(b"b")
    async with asyncio.timeout(5):
        await one.arrived.wait()
    assert (one.pieces, arrivals) == ([b"a", b"b"], [])


async def test_what_nobody_asks_for_comes_by_itself(line: Callable[[], Line]) -> None:
    """The writer may wait for a database, and its model must not wait with it."""
    one = line()
    one.far.send(b"a")
    async with asyncio.timeout(5):
        await one.arrived.wait()
    assert one.pieces == [b"a"]


async def test_end_of_a_connection_is_handed_back_to_its_transport(
    collector: Collector, line: Callable[[], Line]
) -> None:
    one, other = line(), line()
    one.far.send(b"last")
    one.far.close()
    for _ in range(3):
        collector.collect()
    assert (one.pieces, one.ebbed, other.ebbed) == ([b"last"], 1, 0)


async def test_fault_of_one_answer_keeps_no_other_from_its_text(collector: Collector, line: Callable[[], Line]) -> None:
    lines = [line() for _ in range(3)]
    lines[1].faulty = True
    for each in lines:
        each.far.send(b"a")
    collector.collect()
    assert [(each.pieces, each.closed) for each in lines] == [([b"a"], False), ([], True), ([b"a"], False)]


async def test_descriptor_that_belongs_to_another_by_now_is_left_to_it(
    collector: Collector, line: Callable[[], Line]
) -> None:
    """A transport closes its socket, and the news of it comes when the number is given away again."""
    old = line()
    number = old.near.fileno()
    old.near.close()
    new = line()
    assert new.near.fileno() == number
    collector.remove(number, old)
    new.far.send(b"a")
    collector.collect()
    assert new.pieces == [b"a"]


async def test_flood_of_one_answer_comes_whole_and_lets_the_others_go_first(
    collector: Collector, line: Callable[[], Line]
) -> None:
    flood, other = line(), line()
    flood.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    flood.far.setblocking(False)
    sent = flood.far.send(bytes(1 << 20))
    other.far.send(b"a")
    collector.collect()
    assert other.pieces == [b"a"]
    while sum(map(len, flood.pieces)) < sent:
        before = len(flood.pieces)
        collector.collect()
        assert len(flood.pieces) > before


async def test_without_somebody_who_asks_nothing_is_taken_from_a_transport() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert not Collector().add(near.fileno(), Line.__new__(Line))
