"""One event of the engine's stream: OpenAI's `chat.completion.chunk` with llama.cpp's `timings`."""

from __future__ import annotations

from typing import Any

import msgspec

from llmchatbot.llm_service.relay import interrupted


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    delta: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None


class Timings(msgspec.Struct):
    prompt_n: int = 0  # read for this answer
    cache_n: int = 0  # found in the cache
    predicted_n: int = 0


class Chunk(msgspec.Struct):
    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[Choice] = []
    timings: Timings | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(Chunk)


def parse(payload: bytes) -> Chunk:
    """Raises RefusedError when the engine reports a failure in mid-stream, or writes what is no chunk."""
    try:
        chunk = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise interrupted() from error
    if chunk.error is not None:
        raise interrupted()
    return chunk
