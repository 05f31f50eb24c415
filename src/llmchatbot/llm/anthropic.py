"""Anthropic's Messages: `POST …/v1/messages`, server-sent events with a type each.

The answer is whole with its `stop_reason` (in `message_delta`); `message_stop` says that nothing follows.
"""

from __future__ import annotations

import msgspec

from llmchatbot.llm.decoder import SseEvent
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.events import Event, FinishReason, Usage
from llmchatbot.llm.http_errors import in_band_object
from llmchatbot.llm.port import Prompt
from llmchatbot.llm.text import decode_json
from llmchatbot.llm.transport import HttpRequest, HttpTransport
from llmchatbot.llm.wire import AnswerParser, Json, SseModel

SUPPORTED = frozenset({"temperature", "top_p", "max_tokens", "stop", "reasoning_effort"})

VERSION = "2023-06-01"

REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class StreamEvent(msgspec.Struct):
    """One event, all types in one; unknown types (and `ping`) are ignored."""

    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: object = None


_EVENT = msgspec.json.Decoder(StreamEvent)


class AnthropicModel(SseModel):
    """One model behind a Messages endpoint. `endpoint.url` is the base, ending in `/v1`."""

    def __init__(
        self, transport: HttpTransport, endpoint: Endpoint, *, max_tokens: int = 4096, extra_body: Json | None = None
    ) -> None:
        """`max_tokens` is sent where the person set none: the protocol demands it."""
        super().__init__(transport, endpoint)
        self._max_tokens = max_tokens
        self._extra_body = dict(extra_body or {})

    def auth_headers(self) -> dict[str, str]:
        """The key stands in a header of its own."""
        headers = {"anthropic-version": VERSION}
        return {**headers, "x-api-key": str(self.endpoint.key)} if self.endpoint.key else headers

    def request_for(self, prompt: Prompt) -> HttpRequest:
        """See `WireModel.request_for`."""
        return HttpRequest(
            endpoint=self.endpoint,
            url=self.endpoint.join("messages"),
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **self.auth_headers()},
            body=msgspec.json.encode({**self._body(prompt), **self._extra_body}),
        )

    def _body(self, prompt: Prompt) -> Json:
        parameters = prompt.parameters
        system = "\n\n".join(message.content for message in prompt.messages if message.role == "system")
        messages = [
            {"role": message.role, "content": message.content}
            for message in prompt.messages
            if message.role != "system" and message.content.strip()
        ]
        if prompt.prefix.strip():
            # white space at the end of a prefix is refused
            messages.append({"role": "assistant", "content": prompt.prefix.rstrip()})
        values: Json = {
            "model": prompt.model,
            "max_tokens": parameters.max_tokens or self._max_tokens,
            "messages": messages,
            "stream": True,
            "system": system or None,
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "stop_sequences": list(parameters.stop) or None,
            "output_config": {"effort": parameters.reasoning_effort} if parameters.reasoning_effort else None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def parser_for(self, prompt: Prompt) -> MessagesParser:
        """See `WireModel.parser_for`."""
        return MessagesParser(self.endpoint, prefix=prompt.prefix)


class MessagesParser(AnswerParser[SseEvent]):
    """Events of the provider to ours."""

    def __init__(self, endpoint: Endpoint, *, prefix: str = "") -> None:
        super().__init__(endpoint, prefix=prefix)
        self._input = 0
        self._output = 0

    def feed(self, record: SseEvent, out: list[Event]) -> None:
        """See `AnswerParser.feed`."""
        name, data = record
        if not data.strip():
            return
        event = decode_json(data, _EVENT, StreamEvent)
        kind = event.type or name
        if kind == "content_block_delta" and event.delta is not None:
            self._delta(event.index, event.delta, out)
        elif kind == "content_block_start" and event.content_block is not None:
            self._block(event.index, event.content_block, out)
        elif kind == "message_start" and event.message is not None:
            self._count(event.message.usage)
        elif kind == "message_delta":
            self._count(event.usage)
            if event.delta is not None and event.delta.stop_reason:
                self.reason = REASONS.get(event.delta.stop_reason, "stop")
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            raise in_band_object(self.endpoint, event.error)

    def _delta(self, index: int, delta: _Delta, out: list[Event]) -> None:
        if delta.text:
            self.add_text(delta.text, out)
        elif delta.thinking:
            self.add_reasoning(delta.thinking, out)
        elif delta.partial_json:
            self.add_tool_call(index, "", "", delta.partial_json, out)

    def _block(self, index: int, block: _Block, out: list[Event]) -> None:
        if block.type == "tool_use":
            self.add_tool_call(index, block.id or "", block.name or "", "", out)
        elif block.text:
            self.add_text(block.text, out)
        elif block.thinking:
            self.add_reasoning(block.thinking, out)

    def _count(self, usage: _Usage | None) -> None:
        """Input stands in the first event, output in the last, and both numbers are cumulative."""
        if usage is None:
            return
        read = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        if usage.input_tokens is not None:
            self._input = max(self._input, usage.input_tokens + read)
        self._output = max(self._output, usage.output_tokens or 0)
        self.usage = Usage(self._input, self._output)
