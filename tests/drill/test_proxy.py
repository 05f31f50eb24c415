"""The fault proxy breaks where it is told to, and the reader of the drill notices what it must."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmchatbot.drill.outcome import Outcome, quantile
from llmchatbot.drill.proxy import PLACES, Fault, FaultProxy, Splitter, by_header
from llmchatbot.drill.reading import Block, BlockDecoder, Follower

STREAM = b'HTTP/1.1 200 OK\r\n\r\nretry: 1500\nid: g.0\ndata: {"type":"start"}\n\nid: g.1\ndata: {"c":"caf\\u00e9"}\n\n'


def passed(fault: Fault, sizes: list[int]) -> bytes | None:
    """What gets through before the break when the stream comes in pieces of these sizes."""
    splitter = Splitter(fault)
    begin = 0
    for size in [*sizes, len(STREAM)]:
        piece = STREAM[begin : begin + size]
        found = splitter.split(piece)
        if found is not None:
            return STREAM[: begin + found]
        begin += size
    return None


@pytest.mark.parametrize("sizes", [[], [1] * 200, [7] * 40, [60, 3, 2]])
def test_break_lies_where_it_was_asked_for(sizes: list[int]) -> None:
    assert passed(Fault("cut", "anywhere", 33), sizes) == STREAM[:33]
    inside_id = passed(Fault("cut", "id", 43), sizes)
    assert inside_id is not None
    assert inside_id.rpartition(b"\n")[2] in {b"i", b"id", b"id:", b"id: "}
    inside_escape = passed(Fault("reset", "escape", 3), sizes)
    assert inside_escape is not None
    assert b"\\" in inside_escape[-5:]
    assert b"\\u00e9" not in inside_escape
    between = passed(Fault("cut", "frame", 0), sizes)
    assert between is not None
    assert between.endswith(b"}\n")


def test_faults_travel_in_a_header() -> None:
    rng = random.Random(1)
    for _ in range(200):
        fault = Fault.of(rng, 1000)
        head = "".join(f"{name}: {value}\r\n" for name, value in fault.header.items())
        assert by_header(f"GET / HTTP/1.1\r\n{head}\r\n".encode()) == fault
        assert fault.place in PLACES
    assert by_header(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == Fault()


async def test_proxy_cuts_after_exactly_so_many_bytes() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with FaultProxy([(host, port)]) as proxy:
        for after in (0, 1, 19, 50, len(STREAM)):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            header = Fault("cut", "anywhere", after).header["X-Drill-Fault"]
            writer.write(f"GET / HTTP/1.1\r\nX-Drill-Fault: {header}\r\n\r\n".encode())
            assert await reader.read() == STREAM[:after]
            writer.close()
        assert proxy.cuts == 4
    server.close()


def test_reader_notices_lost_and_doubled_events() -> None:
    for numbers, word in (([0, 2], "lost"), ([0, 1, 1], "doubled")):
        outcome = Outcome("test")
        follower = Follower("g", outcome)
        for number in numbers:
            follower.take(Block(f"g.{number}", "", '{"type":"token","content":"a"}'), 0.0)
        assert word in outcome.violations[0]


def test_reader_takes_a_farewell_for_no_event_and_a_reset_for_the_text() -> None:
    outcome = Outcome("test")
    follower = Follower("g", outcome)
    follower.take(Block("g.0", "", '{"type":"token","content":"a"}'), 0.0)
    follower.take(Block("g.0", "", '{"type":"notice","code":"reconnect","content":"x"}'), 0.0)
    follower.take(Block("g.7", "", '{"type":"reset","content":"abc"}'), 0.0)
    follower.take(Block("g.8", "", '{"type":"complete","status":"completed","content":"abc"}'), 0.0)
    assert not outcome.violations
    assert (follower.text, follower.status, follower.last_id) == ("abc", "completed", "g.8")


def test_block_at_a_cut_is_dropped() -> None:
    decoder = BlockDecoder()
    blocks = [block for byte in b"retry: 5\nid: 1\ndata: a\n\n:\nid: 2\nda" for block in decoder.feed(bytes([byte]))]
    assert blocks == [Block("1", "", "a")]


def test_quantile_is_a_value_that_was_measured() -> None:
    assert quantile([], 0.99) == 0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(number) for number in range(100)], 0.99) == 99.0
