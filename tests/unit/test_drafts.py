"""An answer in the making, begun anew by another process, and what one broken reader does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from llmchatbot.clock import SystemClock
from llmchatbot.ids import new_id
from llmchatbot.streaming import payloads
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.store import Batch, Ending, Finish
from llmchatbot.streaming.tails import Tail
from llmchatbot.streaming.writer import Writer


def test_draft_that_goes_on_from_a_log_keeps_what_was_said_and_what_was_thought() -> None:
    stored = ['{"type":"start"}', payloads.reasoning("h\u00f6m "), payloads.reasoning("aha"), payloads.token("Yes, ")]
    draft = Draft.of_log(Tail(new_id()), stored, epoch=2)
    draft.add_text("indeed")
    draft.add_reasoning("!")
    assert (draft.text, draft.reasoning) == ("Yes, indeed", "h\u00f6m aha!")
    assert draft.next_seq == 4
    assert draft.bytes == len("Yes, indeedh\u00f6m aha!".encode())


class Store:
    """Takes everything."""

    async def append(self, node_id: UUID, batches: Sequence[Batch]) -> int:
        return sum(len(batch.payloads) for batch in batches)

    async def stale(self, node_id: UUID, epochs: dict[UUID, int]) -> set[UUID]:
        return set()

    async def finish(self, ending: Ending) -> Finish:
        return Finish.DONE

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        return []


class BrokenTail(Tail):
    def extend(self, first: int, payloads: Sequence[str]) -> None:
        raise ZeroDivisionError


async def test_one_answer_that_cannot_be_shown_keeps_no_other_from_its_end() -> None:
    writer = Writer(Store(), SystemClock(), node_id=new_id, round_seconds=0.001)
    drafts = [Draft(kind(new_id()), epoch=1, next_seq=0) for kind in (Tail, BrokenTail, Tail)]
    for draft in drafts:
        draft.add_text("a")
    running = asyncio.create_task(writer.run())
    try:
        async with asyncio.timeout(5):
            for draft in drafts:
                await writer.settle(draft)
    finally:
        running.cancel()
    assert [draft.tail.last for draft in drafts] == [0, -1, 0]


async def test_round_takes_what_the_models_have_sent_until_it_begins() -> None:
    writer = Writer(Store(), SystemClock(), node_id=new_id, round_seconds=0.001)
    draft = Draft(Tail(new_id()), epoch=1, next_seq=0)
    pieces = ["a", "b"]

    def collect() -> None:
        if pieces:
            draft.add_text(pieces.pop(0))
            writer.touch(draft)

    writer.collect = collect
    writer.nudge()
    running = asyncio.create_task(writer.run())
    try:
        async with asyncio.timeout(5):
            while pieces or not draft.settled:  # noqa: ASYNC110 # a turn of the loop, not a wait
                await asyncio.sleep(0)
    finally:
        running.cancel()
    assert payloads.text_of(draft.tail.payloads) == "ab"


class Offered:
    """A reader at the end of a tail."""

    def __init__(self, *, takes: bool) -> None:
        self.takes = takes
        self.broken = False
        self.wire = Format.NDJSON
        self.numbers: list[int] = []

    def offer(self, first: int, count: int, frames: bytes) -> bool:
        if self.broken:
            raise ZeroDivisionError
        if self.takes:
            assert frames.count(b"\n") == count
            self.numbers += range(first, first + count)
        return self.takes


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_reader_whose_offer_failed_is_not_forgotten_by_its_tail(others: int) -> None:
    tail = Tail(new_id())
    reader = Offered(takes=True)
    crowd = [Offered(takes=True) for _ in range(others)]
    waiting = [asyncio.create_task(tail.wait(each)) for each in (reader, *crowd)]
    await asyncio.sleep(0)
    reader.broken = True
    with pytest.raises(ZeroDivisionError):
        tail.extend(0, ["a"])
    reader.broken = False
    tail.extend(1, ["b"])
    assert reader.numbers == [1]
    # It is woken with everybody else: whoever missed something sees that by the number, and asks.
    tail.wake()
    await asyncio.gather(*waiting)
    assert not tail.watched


async def test_reader_that_leaves_is_offered_nothing_more_and_the_one_that_stays_everything() -> None:
    tail = Tail(new_id())
    leaving, staying, slow = Offered(takes=True), Offered(takes=True), Offered(takes=False)
    tasks = [asyncio.create_task(tail.wait(each)) for each in (leaving, staying, slow)]
    await asyncio.sleep(0)
    tail.extend(0, ["a"])
    await tasks[2]
    tasks[0].cancel()
    await asyncio.wait({tasks[0]})
    tail.extend(1, ["b"])
    assert (leaving.numbers, staying.numbers, slow.numbers) == ([0], [0, 1], [])
    tail.wake()
    await tasks[1]
    assert not tail.watched
