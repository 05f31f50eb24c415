"""What becomes of a reader when the source of its events does."""

from __future__ import annotations

import asyncio
import uuid

from llmchatbot.clock import ManualClock
from llmchatbot.streaming import payloads
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.streams import Stream
from llmchatbot.streaming.tails import Tails


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
    while not tail.watched:  # noqa: ASYNC110 # a turn of the loop, not a wait
        await asyncio.sleep(0)
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
