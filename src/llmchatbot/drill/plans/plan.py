"""What a plan is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from llmchatbot.drill.arena import Arena


def _always(arena: Arena) -> str:
    return ""


class Plan(msgspec.Struct, frozen=True):
    """`ready` says why it cannot run here, "" when it can; `client_side` plans need nothing but an address."""

    name: str
    run: Callable[[Arena], Awaitable[None]]
    summary: str
    client_side: bool = False
    ready: Callable[[Arena], str] = _always

    def why_not(self, arena: Arena) -> str:
        return self.ready(arena)
