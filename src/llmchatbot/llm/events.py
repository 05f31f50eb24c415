"""What a model can say: one vocabulary for every protocol (issue: one port, one event vocabulary).

The order within one answer is: any number of `Notice`, one `Answering`, any number of deltas, at most one `Usage`, and
exactly one `Finished` as the last event. A stream that ends in an exception has no `Finished`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


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
    """Tokens of the whole call; `estimated` when the provider gave no number. Comes once, before `Finished`."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False


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
