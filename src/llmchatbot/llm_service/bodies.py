"""What callers send, in both protocols, as the body of one request to the engine. Refuses with a sentence."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from llmchatbot.llm_service.relay import RefusedError

T = TypeVar("T")

MAX_BODY = 1_000_000
"""Bytes. A context of 128,000 tokens is half of this."""
_MINE = frozenset({"id_slot", "model", "return_progress", "stream", "stream_options"})
"""Members that the service sets itself: a caller must not choose a slot, or switch off what finds callers that left."""


class HistoryMessage(msgspec.Struct):
    """A message of the first backend carries more members (id, tokens, …); they are ignored."""

    role: Literal["user", "assistant", "system"]
    content: str


class GenerateRequest(msgspec.Struct):
    """`POST /api/v1/generate/stream`. The sampling members are ours, and optional."""

    prompt: str
    history: list[HistoryMessage] | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None


_SAMPLING = ("max_tokens", "temperature", "top_p", "seed", "stop")


def generate_body(data: bytes) -> dict[str, Any]:
    """Raises RefusedError with 400."""
    request = _decode(data, GenerateRequest)
    messages = [{"role": message.role, "content": message.content} for message in request.history or []]
    # The first backend sent the newest message in both places (fault 4); the model reads it once.
    newest = {"role": "user", "content": request.prompt}
    if request.prompt and (not messages or messages[-1] != newest):
        messages.append(newest)
    if not messages:
        raise RefusedError(400, "invalid_request", "The prompt is empty, and so is the history.")
    chosen = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
    # This protocol has no place for thoughts: a model that thinks first would look like one that does not answer.
    return {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}, **chosen}


class ChatRequest(msgspec.Struct, frozen=True):
    """`POST /v1/chat/completions`."""

    body: dict[str, Any]
    stream: bool
    include_usage: bool


def chat_request(data: bytes) -> ChatRequest:
    """Raises RefusedError with 400. What llama.cpp knows beyond OpenAI's parameters passes through."""
    body = _decode(data, dict[str, Any])
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise RefusedError(400, "invalid_request", "'messages' must be a list of messages, and not empty.")
    if not all(_is_text(message.get("content")) for message in messages):
        # Also keeps addresses of pictures away from the engine, which would fetch them.
        raise RefusedError(400, "invalid_request", "This model reads text only: 'content' must be text.")
    if (body.get("n") or 1) != 1:
        raise RefusedError(400, "invalid_request", "'n' must be 1: one answer for a request.")
    stream, options = body.get("stream", False), body.get("stream_options") or {}
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise RefusedError(400, "invalid_request", "'stream' must be true or false, 'stream_options' an object.")
    include_usage = not stream or options.get("include_usage") is True
    kept = {name: value for name, value in body.items() if name not in _MINE}
    return ChatRequest({**kept, "stream_options": {"include_usage": include_usage}}, stream, include_usage)


def _is_text(content: object) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    return content is None or isinstance(content, str)


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise RefusedError(400, "invalid_request", f"The body is not valid: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, "invalid_json", "The body is not valid JSON.") from error
