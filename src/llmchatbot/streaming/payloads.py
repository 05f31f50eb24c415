"""What the events of an answer say: ASCII JSON on one line, exactly as it is stored and as it is sent.

In order: `start` · (`notice` | `reasoning` | `tool_call` | `tool_result` | `usage` | `token` | `reset` | `title`)* ·
`complete` or `error`. A payload is made once, stored, and never encoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring_ascii
from typing import Any
from uuid import UUID

from llmchatbot.errors import ModelError
from llmchatbot.models.generations import Usage

TERMINAL = ('{"type":"complete"', '{"type":"error"')
"""How the payload of a last event begins; for whoever asks once per token, and not with a call."""
ERROR = TERMINAL[1]
_TOKEN = '{"type":"token","content":'  # noqa: S105 # not that kind of token
_REASONING = '{"type":"reasoning","content":'
_RESET = '{"type":"reset","content":'
_TOOL_CALL = '{"type":"tool_call",'


# One for all: `json.dumps` makes a new one for each call that asks for other separators.
encode: Callable[[dict[str, Any]], str] = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def token(text: str) -> str:
    return f"{_TOKEN}{encode_basestring_ascii(text)}}}"


def reasoning(text: str) -> str:
    return f"{_REASONING}{encode_basestring_ascii(text)}}}"


def reset(text: str) -> str:
    return f"{_RESET}{encode_basestring_ascii(text)}}}"


def start(*, generation_id: UUID, message_id: UUID, user_message_id: UUID, chat_id: UUID, model: str) -> str:
    return encode(
        {
            "type": "start",
            "generation_id": str(generation_id),
            "message_id": str(message_id),
            "user_message_id": str(user_message_id),
            "session_id": str(chat_id),
            "model": model,
        }
    )


def complete(*, status: str, message_id: UUID, content: str, usage: Usage, finish_reason: str | None) -> str:
    """The whole text and its SHA-256 over UTF-8, so that a client can prove that it shows what is stored."""
    return encode(
        {
            "type": "complete",
            "status": status,
            "message_id": str(message_id),
            "content": content,
            "tokens": usage.output_tokens,
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "estimated": usage.estimated,
            },
            "finish_reason": finish_reason,
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
    )


def failure(error: ModelError, *, status: str, message_id: UUID, content: str) -> str:
    """The text that was kept comes along: a client needs no second request to show the right state."""
    return encode(
        {
            "type": "error",
            "error": error.detail,
            "code": error.code,
            "retryable": error.retryable,
            "status": status,
            "message_id": str(message_id),
            "content": content,
        }
    )


def notice(code: str, text: str, data: dict[str, Any] | None = None) -> str:
    return encode({"type": "notice", "code": code, "content": text, **({"data": data} if data else {})})


def tool_call(index: int, call_id: str, name: str, arguments: str) -> str:
    return encode({"type": "tool_call", "index": index, "id": call_id, "name": name, "arguments": arguments})


def size_of_calls(payloads: Iterable[str]) -> int:
    """Bytes of all tool calls in a log."""
    return sum(len(payload) for payload in payloads if payload.startswith(_TOOL_CALL))


def is_terminal(payload: str) -> bool:
    return payload.startswith(TERMINAL)


def text_of(payloads: Iterable[str]) -> str:
    """I5: the text of a message is the concatenation of its deltas, begun anew at a `reset`."""
    parts: list[str] = []
    for payload in payloads:
        if payload.startswith(_TOKEN):
            parts.append(json.loads(payload[len(_TOKEN) : -1]))
        elif payload.startswith(_RESET):
            parts = [json.loads(payload[len(_RESET) : -1])]
    return "".join(parts)


def reasoning_of(payloads: Iterable[str]) -> str:
    """What a model has thought aloud: never a part of the text, kept beside it."""
    return "".join(json.loads(payload[len(_REASONING) : -1]) for payload in payloads if payload.startswith(_REASONING))


def shows_something(payload: str) -> bool:
    """Whether a person has seen a part of the answer once this was sent: from then on it is never begun anew."""
    return payload.startswith((_TOKEN, _RESET, _REASONING, '{"type":"tool_call"'))
