"""What a model can say: one vocabulary for every protocol (issue: one port, one event vocabulary).

The order within one answer is: any number of `Notice`, one `Answering`, any number of deltas, at most one `Usage`, and
exactly one `Finished` as the last event. A stream that ends in an exception has no `Finished`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec.structs import force_setattr

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

MOST_TOKENS = 2**31 - 1
"""The largest count that can be written down."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer; whole code points, without NUL and lone surrogates."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of what the model thinks aloud; never a part of the answer."""

    text: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a tool call. `id` and `name` come once per `index`, `arguments` are pieces of one JSON text."""

    index: int
    id: str
    name: str
    arguments: str


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of the whole call; `estimated` when the provider gave no number. Comes once, before `Finished`.

    A number that no answer can have is no provider's count: it becomes the nearest possible one, and is `estimated`.
    """

    input_tokens: int
    output_tokens: int
    estimated: bool = False

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens"):
            told = getattr(self, name)
            if not 0 <= told <= MOST_TOKENS:
                force_setattr(self, name, min(max(told, 0), MOST_TOKENS))
                force_setattr(self, "estimated", True)


class Notice(msgspec.Struct, frozen=True):
    """What the person is told beside the answer.

    Codes: fallback, retry, queue_position, context_trimmed, parameter_ignored.
    """

    code: str
    text: str
    data: dict[str, Any] = {}


class Answering(msgspec.Struct, frozen=True, gc=False):
    """Which model really answers: our public name and the upstream's. Sent once, before the first delta."""

    model: str
    upstream: str


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The upstream said that the answer is whole. Exactly once, last; a bare end of file never makes one."""

    reason: FinishReason


Event = TextDelta | ReasoningDelta | ToolCallDelta | Usage | Notice | Answering | Finished
"""Any of the above."""

DELTAS = (TextDelta, ReasoningDelta, ToolCallDelta)
"""The events after which neither a retry nor a fallback is allowed: the person has seen something."""
