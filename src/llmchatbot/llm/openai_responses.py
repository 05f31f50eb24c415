"""OpenAI's Responses: `POST …/responses`, server-sent events with a type each; nothing is stored at the provider.

The end of an answer is `response.completed` or `response.incomplete`; there is no `[DONE]`.
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

SUPPORTED = frozenset({"temperature", "top_p", "max_tokens", "reasoning_effort"})

_INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}


class _Item(msgspec.Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _Incomplete(msgspec.Struct):
    reason: str = ""


class _Response(msgspec.Struct):
    usage: _Usage | None = None
    error: object = None
    incomplete_details: _Incomplete | None = None


class StreamEvent(msgspec.Struct):
    """One event, all types in one; unknown types and members are ignored."""

    type: str = ""
    delta: object = None
    output_index: int = 0
    item: _Item | None = None
    response: _Response | None = None
    error: object = None
    message: str | None = None
    code: object = None


_EVENT = msgspec.json.Decoder(StreamEvent)


class OpenAiResponsesModel(SseModel):
    """One model behind a Responses endpoint. `endpoint.url` is the base, usually ending in `/v1`."""

    def __init__(self, transport: HttpTransport, endpoint: Endpoint, *, extra_body: Json | None = None) -> None:
        super().__init__(transport, endpoint)
        self._extra_body = dict(extra_body or {})

    def request_for(self, prompt: Prompt) -> HttpRequest:
        """See `WireModel.request_for`."""
        return HttpRequest(
            endpoint=self.endpoint,
            url=self.endpoint.join("responses"),
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **self.auth_headers()},
            body=msgspec.json.encode({**body_for(prompt), **self._extra_body}),
        )

    def parser_for(self, prompt: Prompt) -> ResponsesParser:
        """See `WireModel.parser_for`."""
        return ResponsesParser(self.endpoint)


def body_for(prompt: Prompt) -> Json:
    """The request body; system messages become `instructions`."""
    parameters = prompt.parameters
    system = "\n\n".join(message.content for message in prompt.messages if message.role == "system")
    items = [
        {"role": message.role, "content": message.content} for message in prompt.messages if message.role != "system"
    ]
    if prompt.prefix:
        items.append({"role": "assistant", "content": prompt.prefix})
    values: Json = {
        "model": prompt.model,
        "input": items,
        "stream": True,
        "store": False,
        "instructions": system or None,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "max_output_tokens": parameters.max_tokens,
        "reasoning": {"effort": parameters.reasoning_effort} if parameters.reasoning_effort else None,
    }
    return {name: value for name, value in values.items() if value is not None}


class ResponsesParser(AnswerParser[SseEvent]):
    """Events of the provider to ours."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._calls = False

    def feed(self, record: SseEvent, out: list[Event]) -> None:
        """See `AnswerParser.feed`."""
        name, data = record
        if not data.strip() or data == b"[DONE]":
            return
        event = decode_json(data, _EVENT, StreamEvent)
        kind = event.type or name
        if isinstance(event.delta, str):
            self._delta(kind, event, event.delta, out)
        elif kind == "response.output_item.added" and event.item is not None and event.item.type == "function_call":
            self._calls = True
            self.add_tool_call(event.output_index, event.item.call_id or "", event.item.name or "", "", out)
        elif kind in {"response.completed", "response.incomplete", "response.failed", "error"}:
            self._ended(kind, event)

    def _delta(self, kind: str, event: StreamEvent, delta: str, out: list[Event]) -> None:
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            self.add_text(delta, out)
        elif kind in {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}:
            self.add_reasoning(delta, out)
        elif kind == "response.function_call_arguments.delta":
            self.add_tool_call(event.output_index, "", "", delta, out)

    def _ended(self, kind: str, event: StreamEvent) -> None:
        response = event.response or _Response()
        if response.usage is not None:
            self.usage = Usage(response.usage.input_tokens, response.usage.output_tokens)
        if kind in {"response.failed", "error"}:
            raise in_band_object(self.endpoint, response.error or event.error or [event.code, event.message])
        if kind == "response.incomplete":
            details = response.incomplete_details or _Incomplete()
            self.reason = _INCOMPLETE.get(details.reason, "length")
        else:
            self.reason = "tool_calls" if self._calls else "stop"
        self.done = True
