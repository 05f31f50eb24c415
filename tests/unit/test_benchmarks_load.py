"""The load process and the scripted upstream, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from benchmarks import speech, upstream
from benchmarks.client import stream
from benchmarks.client.answers import run_answers
from benchmarks.client.plan import Plan, Target
from benchmarks.client.requests import run_requests, whole_response
from benchmarks.speech import Stamps

CHAT = "/v1/chat/completions"


@pytest.fixture
def stamps(tmp_path: Path) -> Iterator[Stamps]:
    made = Stamps(tmp_path / "stamps")
    yield made
    made.close()


@pytest.fixture
async def port(stamps: Stamps) -> AsyncIterator[int]:
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(upstream.serve(0, stamps, listening.set_result))
    yield await listening
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def plan(port: int, path: Path, **changes: object) -> Plan:
    now = time.monotonic()
    base = Plan(
        mode="answers",
        port=port,
        stamps=str(path / "stamps"),
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


async def test_every_stream_gets_its_tokens_at_the_asked_rate(port: int, tmp_path: Path) -> None:
    outcome = await run_answers(plan(port, tmp_path))
    assert outcome.incomplete == 0
    assert outcome.errors == {}
    assert outcome.complete >= 4
    assert 0 < outcome.delay.p50 < 100
    assert 100 < outcome.tokens <= 4 * 100 * 0.8 * 1.25


async def test_what_is_refused_is_counted_not_repeated_without_end(tmp_path: Path) -> None:
    outcome = await run_answers(plan(1, tmp_path))
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


async def test_requests_go_on_until_the_window_ends(port: int, tmp_path: Path) -> None:
    outcome = await run_requests(plan(port, tmp_path, mode="requests", targets=[Target("/health")], connections=2))
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


GENERATION = "018f1234-0000-7000-8000-000000000000"


def event(seq: int, kind: str, content: bytes) -> bytes:
    head = f'id: {GENERATION}.{seq}\ndata: {{"type":"{kind}",'.encode()
    return head + b'"content":"' + content + b'"}\n\n'


FIRST, SECOND, THIRD = (speech.token(7, index) for index in range(3))
BODY = (
    f'retry: 1500\nid: {GENERATION}.0\ndata: {{"type":"start","generation_id":"{GENERATION}"}}\n\n'.encode(),
    event(1, "token", FIRST),
    b":\n",
    event(2, "token", SECOND + THIRD),
    event(3, "complete", FIRST + SECOND + THIRD),
)
ANSWER = (
    b'HTTP/1.1 200 OK\r\nx-note: "content":" a9"\r\n\r\n'
    + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in BODY)
    + b"0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100_000])
def test_an_answer_cut_into_any_pieces_is_counted_alike(size: int, stamps: Stamps, tmp_path: Path) -> None:
    meter = stream.Meter(plan(1, tmp_path), stamps)
    ended: list[stream.EventStream] = []
    reader = stream.EventStream(meter, 0, b"GET", 3, ended.append)
    reader.keep_event_ids = True
    socket = Socket()
    reader.connection_made(socket)
    for start in range(0, len(ANSWER), size):
        if not socket.closed:
            reader.data_received(ANSWER[start : start + size])
    reader.connection_lost(None)
    assert (reader.received, reader.ended_whole, reader.ordered) == (3, True, True)
    assert reader.generation == GENERATION
    assert (meter.complete, meter.incomplete) == (1, 0)
    assert ended == [reader]


def counted(pieces: list[bytes], meter: stream.Meter, final: bytes = FIRST + SECOND + THIRD) -> tuple[int, int]:
    reader = stream.EventStream(meter, 0, b"GET", 3, lambda _: None)
    reader.connection_made(Socket())
    reader.data_received(b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(event(1, "token", piece) for piece in pieces))
    reader.data_received(event(2, "complete", final))
    reader.connection_lost(None)
    return meter.complete, meter.incomplete


def test_a_lost_a_doubled_and_a_swapped_token_are_noticed(stamps: Stamps, tmp_path: Path) -> None:
    for pieces in ([FIRST, SECOND], [FIRST, SECOND, SECOND, THIRD], [FIRST, THIRD, SECOND], [SECOND, FIRST, THIRD]):
        for events in (pieces, [b"".join(pieces)]):
            assert counted(events, stream.Meter(plan(1, tmp_path), stamps)) == (0, 1)
    assert counted([FIRST, SECOND, THIRD], stream.Meter(plan(1, tmp_path), stamps)) == (1, 0)


def test_an_answer_whose_last_event_lacks_a_word_is_not_whole(stamps: Stamps, tmp_path: Path) -> None:
    meter = stream.Meter(plan(1, tmp_path), stamps)
    assert counted([FIRST, SECOND, THIRD], meter, final=FIRST + THIRD) == (0, 1)


def test_each_token_is_measured_from_the_moment_that_its_source_wrote_down(stamps: Stamps, tmp_path: Path) -> None:
    now = time.monotonic()
    meter = stream.Meter(plan(1, tmp_path, window_from=now, window_to=now + 60), stamps)
    for index in range(3):
        stamps.set(7, index)
    time.sleep(0.01)
    counted([FIRST, SECOND + THIRD], meter)
    assert len(meter.delays) == 3
    assert all(10_000 <= delay < 1_000_000 for delay in meter.delays)


def test_the_scripted_text_has_natural_frequencies() -> None:
    """An index of words meets in the benchmark what it meets in the field: some 300 different ones among 500."""
    for number in range(20):
        assert 240 <= len(set(speech.answer(number, 500).split())) <= 340


@pytest.mark.parametrize("number", [0, 7, 13, 8191])
def test_an_answer_is_the_sum_of_its_tokens(number: int) -> None:
    for count in (0, 1, 2, 2500):
        tokens = [speech.token(number, index) for index in range(count)]
        assert speech.answer(number, count) == b"".join(tokens)
