"""Google's Gemini: `POST …/models/{model}:streamGenerateContent?alt=sse`.

There is no end mark: the body just ends. So the answer is whole with its `finishReason` only.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from llmchatbot.errors import ModelInterrupted, ModelRefused
from llmchatbot.llm.decoder import SseEvent
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.events import Event, FinishReason, Usage
from llmchatbot.llm.http_errors import in_band_object
from llmchatbot.llm.port import Parameters, Prompt
from llmchatbot.llm.text import decode_json
from llmchatbot.llm.transport import HttpRequest, HttpTransport
from llmchatbot.llm.wire import AnswerParser, Json, SseModel

SUPPORTED = frozenset({"temperature", "top_p", "max_tokens", "seed", "stop", "reasoning_effort"})

REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
}


class _Call(msgspec.Struct):
    name: str = ""
    id: str | None = None
    args: Any = None


class _Part(msgspec.Struct):
    text: str | None = None
    thought: bool = False
    function_call: _Call | None = msgspec.field(name="functionCall", default=None)


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    finish_reason: str | None = msgspec.field(name="finishReason", default=None)
    index: int = 0


class _Feedback(msgspec.Struct):
    block_reason: str | None = msgspec.field(name="blockReason", default=None)


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None


class Chunk(msgspec.Struct):
    """One event; unknown members are ignored."""

    candidates: list[_Candidate] | None = None
    feedback: _Feedback | None = msgspec.field(name="promptFeedback", default=None)
    usage: _Usage | None = msgspec.field(name="usageMetadata", default=None)
    error: object = None


_CHUNK = msgspec.json.Decoder(Chunk)


class GeminiModel(SseModel):
    """One Gemini model. `endpoint.url` is the base, ending in `/v1beta`."""

    def __init__(
        self, transport: HttpTransport, endpoint: Endpoint, *, thoughts: bool = False, extra_body: Json | None = None
    ) -> None:
        """`thoughts` asks for the model's reasoning; models that have none refuse the question."""
        super().__init__(transport, endpoint)
        self._thoughts = thoughts
        self._extra_body = dict(extra_body or {})

    def auth_headers(self) -> dict[str, str]:
        """The key stands in a header, never in the URL, where logs would keep it."""
        return {"x-goog-api-key": str(self.endpoint.key)} if self.endpoint.key else {}

    def request_for(self, prompt: Prompt) -> HttpRequest:
        """See `WireModel.request_for`."""
        url = self.endpoint.join(f"models/{quote(prompt.model, safe='')}:streamGenerateContent")
        return HttpRequest(
            endpoint=self.endpoint,
            url=f"{url}{'&' if '?' in url else '?'}alt=sse",
            headers={"Content-Type": "application/json", **self.auth_headers()},
            body=msgspec.json.encode({**self._body(prompt), **self._extra_body}),
        )

    def _body(self, prompt: Prompt) -> Json:
        system = [{"text": message.content} for message in prompt.messages if message.role == "system"]
        contents = [
            {"role": "model" if message.role == "assistant" else "user", "parts": [{"text": message.content}]}
            for message in prompt.messages
            if message.role != "system"
        ]
        if prompt.prefix:
            contents.append({"role": "model", "parts": [{"text": prompt.prefix}]})
        body: Json = {"contents": contents, "generationConfig": self._config(prompt.parameters)}
        return {**body, "systemInstruction": {"parts": system}} if system else body

    def _config(self, parameters: Parameters) -> Json:
        thinking: Json = {"includeThoughts": True} if self._thoughts else {}
        if parameters.reasoning_effort:
            thinking["thinkingLevel"] = parameters.reasoning_effort
        values: Json = {
            "temperature": parameters.temperature,
            "topP": parameters.top_p,
            "maxOutputTokens": parameters.max_tokens,
            "seed": parameters.seed,
            "stopSequences": list(parameters.stop) or None,
            "thinkingConfig": thinking or None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def parser_for(self, prompt: Prompt) -> GeminiParser:
        """See `WireModel.parser_for`."""
        return GeminiParser(self.endpoint)


class GeminiParser(AnswerParser[SseEvent]):
    """Chunks to events."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._calls = 0

    def feed(self, record: SseEvent, out: list[Event]) -> None:
        """See `AnswerParser.feed`."""
        if not record[1].strip():
            return
        chunk = decode_json(record[1], _CHUNK, Chunk)
        if chunk.error is not None:
            raise in_band_object(self.endpoint, chunk.error)
        if chunk.usage is not None and chunk.usage.prompt_token_count is not None:
            usage = chunk.usage
            output = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
            self.usage = Usage(chunk.usage.prompt_token_count, output)
        for candidate in chunk.candidates or ():
            if candidate.index == 0:
                self._candidate(candidate, out)
        if chunk.feedback is not None and chunk.feedback.block_reason:
            raise ModelRefused("The model's provider refused this conversation.")

    def _candidate(self, candidate: _Candidate, out: list[Event]) -> None:
        for part in (candidate.content.parts if candidate.content else None) or ():
            if part.text and part.thought:
                self.add_reasoning(part.text, out)
            elif part.text:
                self.add_text(part.text, out)
            elif part.function_call is not None:
                call = part.function_call
                arguments = msgspec.json.encode(call.args if call.args is not None else {}).decode()
                self.add_tool_call(self._calls, call.id or "", call.name, arguments, out)
                self._calls += 1
        reason = candidate.finish_reason
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            if reason not in REASONS:
                raise ModelInterrupted("The model's provider ended the answer for a reason that it did not name.")
            self.reason = "tool_calls" if self._calls and reason == "STOP" else REASONS[reason]
