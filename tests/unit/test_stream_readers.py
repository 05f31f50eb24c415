"""What becomes of a reader when the source of its events does."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence

from llmchatbot.clock import ManualClock
from llmchatbot.services.feed import FeedSource
from llmchatbot.streaming import payloads
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.streams import OpenStreams, Stream
from llmchatbot.streaming.tails import Tail, Tails


class Connection:
    """What was written to a reader, the short way and the long one, in its order."""

    full = False

    def __init__(self) -> None:
        self.body = b""
        self.pushes = 0

    def push(self, data: bytes) -> None:
        self.body += data
        self.pushes += 1

    async def send(self, data: bytes, more: bool) -> None:
        self.body += data

    @property
    def blocks(self) -> list[str]:
        return self.body.decode().split("\n\n")[:-1]


async def follow_from_the_end(tail: Tail, wire: Format = Format.SSE) -> tuple[Stream, Connection, asyncio.Task[None]]:
    """A reader that has everything so far and waits for more."""
    connection = Connection()
    stream = Stream(tail, seq=tail.last, wire=wire, send=connection.send, session_id=None, clock=ManualClock())
    stream.outlet = connection
    running = asyncio.create_task(stream.run(opening=wire.opening()))
    await until_watched(tail)
    return stream, connection, running


async def until_watched(tail: Tail) -> None:
    while not tail.watched:  # noqa: ASYNC110 # a turn of the loop, not a wait
        await asyncio.sleep(0)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def running_answer() -> Tail:
    tail = Tails().open(uuid.uuid4())
    tail.extend(0, ['{"type":"start"}', payloads.token("a")])
    return tail


async def test_reader_of_an_answer_that_this_process_lost_is_sent_to_ask_anew() -> None:
    """Found by the drill `zombie`: readers of a node that was fenced while it slept got heartbeats for ever."""
    tails = Tails()
    tail = tails.open(uuid.uuid4())
    tail.extend(0, [payloads.token("a")])
    written: list[bytes] = []

    async def send(data: bytes, more: bool) -> None:
        written.append(data)

    stream = Stream(tail, seq=-1, wire=Format.SSE, send=send, session_id=None, clock=ManualClock())
    running = asyncio.create_task(stream.run())
    await until_watched(tail)
    tails.drop(tail.generation_id)
    await asyncio.wait_for(running, 1)
    assert b'"code":"reconnect"' in written[-1]
    assert f"id: {tail.stream_id}.0\n".encode() in written[-1], "the place from which it resumes"
    assert not stream.delivered_end


async def test_slow_reader_gets_the_rest_of_an_answer_that_was_swept() -> None:
    tails = Tails()
    tail = tails.open(uuid.uuid4())
    tail.extend(0, [payloads.token("a"), '{"type":"complete"}'])
    tails.sweep(0, keep=1)
    tails.sweep(10, keep=1)
    assert tails.find(tail.generation_id) is None
    written: list[bytes] = []

    async def send(data: bytes, more: bool) -> None:
        written.append(data)

    stream = Stream(tail, seq=-1, wire=Format.SSE, send=send, session_id=None, clock=ManualClock())
    await asyncio.wait_for(stream.run(), 1)
    assert stream.delivered_end
    assert b"reconnect" not in b"".join(written)


async def test_retry_stands_in_the_first_block_alone_of_a_reader_that_comes_back_to_the_newest_event() -> None:
    """Its next tokens took the short way, which knows no opening; the last block then began with `retry: 1500`."""
    tail = running_answer()
    _, connection, running = await follow_from_the_end(tail)
    for word in ("b", "c", "d"):
        tail.extend(tail.last + 1, [payloads.token(word)])
        await until_watched(tail)
    tail.extend(tail.last + 1, ['{"type":"complete"}'])
    await asyncio.wait_for(running, 1)
    assert connection.blocks[0].startswith(f"retry: 1500\nid: {tail.stream_id}.2\n")
    assert [block.count("retry: ") for block in connection.blocks] == [1, 0, 0, 0]
    assert connection.pushes == 2, "all but the first still take the short way"


async def test_retry_stands_once_in_a_farewell_that_is_the_first_block() -> None:
    """A server that shut down told who had just come back `retry: 1500` and `retry: 357` in one block."""
    tail = running_answer()
    stream, connection, running = await follow_from_the_end(tail)
    stream.farewell = True
    tail.wake()
    await asyncio.wait_for(running, 1)
    (block,) = connection.blocks
    pause = json.loads(block.split("data: ")[1])["retry"]
    assert block.split("\n")[:2] == [f"retry: {pause}", f"id: {tail.stream_id}.1"]
    assert block.count("\nretry: ") == 0


async def test_farewell_of_the_ndjson_twin_names_the_same_place_as_the_other_form() -> None:
    """It named none, so a reader that came back and was sent away before its first event lost its place."""
    tail = running_answer()
    stream, connection, running = await follow_from_the_end(tail, Format.NDJSON)
    stream.farewell = True
    tail.wake()
    await asyncio.wait_for(running, 1)
    notice = json.loads(connection.body)
    assert (notice["code"], notice["id"]) == ("reconnect", f"{tail.stream_id}.1")
    assert f"id: {notice['id']}\n".encode() in Format.SSE.farewell(tail.stream_id, 1)
    assert "id" not in json.loads(Format.NDJSON.farewell(tail.stream_id, -1)), "no event was read yet"


async def test_long_poll_gets_a_heartbeat_after_each_silence_and_looks_for_news_no_more_often() -> None:
    """It never got one, so one was due at each tick, and each woke the feed and asked the database."""
    clock, connection = ManualClock(), Connection()
    reads: list[float] = []

    async def read(after: int) -> Sequence[str]:
        reads.append(clock.monotonic() - began)
        return []

    began = clock.monotonic()
    source = FeedSource(uuid.uuid4(), 5, [], read)
    stream = Stream(source, seq=4, wire=Format.SSE, send=connection.send, session_id=None, clock=clock)
    streams = OpenStreams(clock, heartbeat_seconds=15, send_seconds=10, most_per_device=100)

    async def answer() -> None:
        streams.add(stream)
        await stream.run(opening=Format.SSE.opening(), poll_seconds=60)

    running = asyncio.create_task(answer())
    for _ in range(50):
        await turns()
        clock.advance(1)
        streams.tick()
    await turns()
    assert (connection.body, reads) == (b":\n" * 3, [0, 15, 30, 45])
    running.cancel()
