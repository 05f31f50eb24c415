"""The load process and the scripted upstream, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from benchmarks import upstream
from benchmarks.client import stream
from benchmarks.client.answers import run_answers
from benchmarks.client.plan import Plan, Target
from benchmarks.client.requests import run_requests, whole_response

CHAT = "/v1/chat/completions"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(upstream.serve(0, listening.set_result))
    yield await listening
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def plan(port: int, **changes: object) -> Plan:
    now = time.monotonic()
    base = Plan(
        mode="answers",
        port=port,
        targets=[Target(CHAT)] * 4,
        rate=100,
        tokens=20,
        start=now,
        ramp=0.1,
        window_from=now + 0.2,
        window_to=now + 1.0,
        deadline=now + 3,
    )
    return msgspec.structs.replace(base, **changes)


async def test_every_stream_gets_its_tokens_at_the_asked_rate(port: int) -> None:
    outcome = await run_answers(plan(port))
    assert outcome.incomplete == 0
    assert outcome.errors == {}
    assert outcome.complete >= 4
    assert 0 < outcome.delay.p50 < 100
    assert 100 < outcome.tokens <= 4 * 100 * 0.8 * 1.25


async def test_what_is_refused_is_counted_not_repeated_without_end() -> None:
    outcome = await run_answers(plan(1))
    assert outcome.tokens == 0
    assert outcome.errors["ConnectionRefusedError"] == 4


async def test_a_silent_upstream_sends_its_first_chunk_and_no_token(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(stream.post(Target(CHAT), 0, 1))
    first = await asyncio.wait_for(reader.readuntil(b"\n\n"), 2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readuntil(b"\n\n"), 0.1)
    writer.close()
    assert b'"role":"assistant"' in first or b"HTTP/1.1 200" in first


async def test_requests_go_on_until_the_window_ends(port: int) -> None:
    outcome = await run_requests(plan(port, mode="requests", targets=[Target("/health")], connections=2))
    assert outcome.errors == {}
    assert outcome.answers > 10
    assert outcome.latency.p99 >= outcome.latency.p50 > 0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n", False),
    ],
)
def test_a_response_is_whole_by_its_length_or_its_last_chunk(data: bytes, expected: bool) -> None:
    assert whole_response(data) is expected


class Socket(asyncio.Transport):
    """A transport that only remembers whether it was closed."""

    closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data

    def close(self) -> None:
        self.closed = True


ANSWER = (
    b"HTTP/1.1 200 OK\r\nx-note: x0000abcd\r\n\r\n"
    b'61\r\nretry: 1500\nid: 018f1234-0000-7000-8000-000000000000.0\ndata: {"type":"start","generation_id":'
    b'"018f1234-0000-7000-8000-000000000000"}\n\n\r\n'
    b'2a\r\nid: 018f1234-0000-7000-8000-000000000000.1\ndata: {"type":"token","content":" x00000010"}\n\n\r\n'
    b":\n\r\n2a\r\nid: 018f1234-0000-7000-8000-000000000000.2\n"
    b'data: {"type":"token","content":" x00000020 x00000030"}\n\n\r\n'
    b"2a\r\nid: 018f1234-0000-7000-8000-000000000000.3\n"
    b'data: {"type":"complete","content":" x00000010 x00000020 x00000030"}\n\n\r\n0\r\n\r\n'
)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100_000])
def test_an_answer_cut_into_any_pieces_is_counted_alike(size: int) -> None:
    meter = stream.Meter(plan(1))
    ended: list[stream.EventStream] = []
    reader = stream.EventStream(meter, 0, b"GET", 3, ended.append)
    reader.keep_event_ids = True
    socket = Socket()
    reader.connection_made(socket)
    for start in range(0, len(ANSWER), size):
        if not socket.closed:
            reader.data_received(ANSWER[start : start + size])
    reader.connection_lost(None)
    assert (reader.received, reader.final_tokens, reader.ordered) == (3, 3, True)
    assert reader.generation == "018f1234-0000-7000-8000-000000000000"
    assert (meter.complete, meter.incomplete) == (1, 0)
    assert ended == [reader]


def test_a_lost_a_doubled_and_a_swapped_token_are_noticed() -> None:
    for text in (b" x00000010", b" x00000010 x00000020 x00000020", b" x00000020 x00000010"):
        meter = stream.Meter(plan(1))
        reader = stream.EventStream(meter, 0, b"GET", 2, lambda _: None)
        reader.connection_made(Socket())
        reader.data_received(b'HTTP/1.1 200 OK\r\n\r\ndata: {"type":"token","content":"' + text + b'"}\n\n')
        reader.data_received(b'data: {"type":"complete","content":" x00000010 x00000020"}\n\n')
        reader.connection_lost(None)
        assert (meter.complete, meter.incomplete) == (0, 1)
