"""The snapshot law (reliability §4.1.8): what was read up to any cursor, and the replay from it, are the message."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from llmchatbot.clock import ManualClock
from llmchatbot.drill.outcome import Outcome
from llmchatbot.drill.reading import BlockDecoder, Follower
from llmchatbot.ids import new_id
from llmchatbot.streaming import payloads
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.replays import Replay
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.streams import Source, Stream
from llmchatbot.streaming.tails import ResetView, Tail

CASES = 10_000
PIECES = ("a", "é", "世界", "😀", "\u2028", '"', "\\", "\n\n", "id: 7\n", "</script>", "")


class Log:
    def __init__(self, events: Sequence[str]) -> None:
        self.events = events

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        return list(enumerate(self.events))[first : first + limit]


def a_log(rng: random.Random) -> list[str]:
    events = [payloads.encode({"type": "start"})]
    for _ in range(rng.randrange(0, 40)):
        said = "".join(rng.choices(PIECES, k=rng.randint(1, 4)))
        events.append(
            rng.choices((payloads.token(said), payloads.reasoning(said), payloads.notice("n", said)), (8, 1, 1))[0]
        )
    return [*events, payloads.encode({"type": "complete", "status": "completed", "content": payloads.text_of(events)})]


async def read_on(follower: Follower, source: Source, *, chunk: int) -> None:
    decoder = BlockDecoder()

    async def send(data: bytes, more: bool) -> None:
        for begin in range(0, len(data), chunk):
            for block in decoder.feed(data[begin : begin + chunk]):
                follower.take(block, 0.0)

    await Stream(
        source, seq=follower.seq, wire=Format.SSE, send=send, session_id=None, clock=ManualClock()
    ).run(opening=Format.SSE.opening())  # fmt: skip


async def test_snapshot_law() -> None:
    rng = random.Random(8)
    for case in range(CASES):
        generation_id, events = new_id(), a_log(rng)
        text = json.loads(events[-1])["content"]
        outcome = Outcome("law")
        follower = Follower(str(generation_id), outcome)
        tail = Tail(generation_id)
        tail.extend(0, events)
        cursor = rng.randrange(-1, len(events) - 1)
        follower.seq, follower.text = cursor, payloads.text_of(events[: cursor + 1])
        source: Any = tail
        if rng.random() < 0.5:
            replay = Replay(cast("Store", Log(events)), generation_id, cursor + 1, len(events) - 1)
            await replay.load()
            source = replay
        await read_on(follower, source, chunk=rng.choice((1, 7, 4096)))
        assert not outcome.violations, (case, outcome.violations)
        assert follower.text == text, case
        assert follower.ended


async def test_snapshot_law_beyond_the_end() -> None:
    """A cursor that the log does not reach: the whole text so far, then what follows."""
    rng = random.Random(9)
    for case in range(1000):
        generation_id, events = new_id(), a_log(rng)
        tail = Tail(generation_id)
        known = rng.randrange(1, len(events))
        tail.extend(0, events[:known])
        view = ResetView(tail, payloads.text_of(events[:known]))
        tail.extend(known, events[known:])
        follower = Follower(str(generation_id), Outcome("law"))
        follower.seq, follower.text = known - 2, "what was never stored"
        await read_on(follower, view, chunk=4096)
        assert follower.text == json.loads(events[-1])["content"], case
        assert follower.ended
