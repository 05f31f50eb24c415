"""Whole answers, read by some client through connections that break all the time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from nodes import Person

from llmchatbot.drill.arena import text_of
from llmchatbot.drill.proxy import PLACES, Fault, FaultProxy

# What one connection may carry before it breaks: the head, and a few events.
_REACH = 700
_WHOLE_AFTER = 40_000


class Answer(dict[str, Any]):
    """What a client has seen: `text`, and the event that ended it in `end`."""


Read = Callable[[str, str, str], Awaitable[Answer]]


class Bench:
    """`await bench.read_through_cuts(read, 200)`: whole answers through connections that break all the time."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.cuts = 0

    async def read_through_cuts(self, read: Read, cuts: int, *, spare: int = 0) -> None:
        """`read(base, token, generation)` reads one answer to its end, by whatever client.

        The first `spare` bytes of a response are not cut.
        """
        rng = random.Random(cuts)
        number = 0
        while self.cuts < cuts:
            number += 1
            assert number < 100, "nothing was cut"
            script = f"rate=250 tokens=400 seed={number}"
            generation = await self.person.start(await self.person.chat(), f"[[{script}]]")
            left = cuts - self.cuts

            def fault(head: bytes) -> Fault:
                if b"/stream" not in head.partition(b"\r\n")[0] or proxy.cuts >= left:  # noqa: B023 - used at once
                    return Fault()
                # Now and then far enough for the last event, which holds the whole text.
                reach = _WHOLE_AFTER if rng.random() < 0.03 else _REACH
                return Fault(rng.choice(("cut", "reset")), rng.choice(PLACES), spare + rng.randrange(reach))

            async with FaultProxy([("127.0.0.1", self.person.node.port)], policy=fault, hurry=True) as proxy:
                seen = await read(proxy.url, self.person.token, generation)
            self.cuts += proxy.cuts
            assert seen["text"] == seen["end"]["content"] == text_of(script)
            assert seen["end"]["status"] == "completed"
