"""An answer in the making, begun anew by another process, and what one broken reader does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from llmchatbot.clock import SystemClock
from llmchatbot.ids import new_id
from llmchatbot.streaming import payloads
from llmchatbot.streaming.drafts import Draft
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
