"""OpenAI's chat completions, and everybody who speaks them: `POST …/chat/completions`, server-sent events.

The end of an answer is its `finish_reason`; `[DONE]` only says that nothing follows. So a body that ends after a
`finish_reason` without `[DONE]` is whole (some servers leave it out), and a `[DONE]` without any `finish_reason` is not
(proxies send it after a failure behind them).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from llmchatbot.errors import ModelUnavailable
from llmchatbot.llm.decoder import SseEvent
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.events import Event, FinishReason, Usage
from llmchatbot.llm.http_errors import in_band_object
from llmchatbot.llm.port import Parameters, Prompt
from llmchatbot.llm.text import decode_json
from llmchatbot.llm.transport import HttpRequest, HttpTransport
from llmchatbot.llm.wire import AnswerParser, Json, SseModel

SUPPORTED = frozenset({"temperature", "top_p", "max_tokens", "seed", "stop", "reasoning_effort"})

PrefixStyle = Literal["assistant", "flag", "vllm"]
"""How an upstream is told to go on from a text: a last assistant message alone (llama.cpp, Ollama, OpenRouter), the
same with `"prefix": true` (DeepSeek, Mistral), or vLLM's `continue_final_message`."""

REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}
# An end that is none: the server gave up. DeepSeek, vLLM and SGLang, OpenRouter.
_BROKEN_OFF = frozenset({"error", "insufficient_system_resource", "abort", "cancelled", "timeout"})


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event. Azure's first chunk and the usage chunk have no choices; vendors add members, which are ignored."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None


_CHUNK = msgspec.json.Decoder(Chunk)


class OpenAiChatModel(SseModel):
    """One model behind a chat completions endpoint. `endpoint.url` is the base, usually ending in `/v1`."""

    def __init__(
        self,
        transport: HttpTransport,
        endpoint: Endpoint,
        *,
        max_tokens_field: str = "max_tokens",
        prefix_style: PrefixStyle = "assistant",
        extra_body: Json | None = None,
    ) -> None:
        super().__init__(transport, endpoint)
        self._max_tokens_field = max_tokens_field
        self._prefix_style = prefix_style
        self._extra_body = dict(extra_body or {})

    def auth_headers(self) -> dict[str, str]:
        """Azure takes the key in `api-key`; sending it there too harms nobody else's origin."""
        headers = super().auth_headers()
        if headers and self.endpoint.host.endswith((".openai.azure.com", ".cognitiveservices.azure.com")):
            return {"api-key": str(self.endpoint.key)}
        return headers

    def request_for(self, prompt: Prompt) -> HttpRequest:
        """See `WireModel.request_for`."""
        return HttpRequest(
            endpoint=self.endpoint,
            url=self.endpoint.join("chat/completions"),
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **self.auth_headers()},
            body=msgspec.json.encode(self._body(prompt)),
        )

    def _body(self, prompt: Prompt) -> Json:
        messages: list[Json] = [{"role": message.role, "content": message.content} for message in prompt.messages]
        body: Json = {
            "model": prompt.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling(prompt.parameters, self._max_tokens_field),
        }
        if prompt.prefix:
            last: Json = {"role": "assistant", "content": prompt.prefix}
            if self._prefix_style == "flag":
                last["prefix"] = True
            elif self._prefix_style == "vllm":
                body |= {"continue_final_message": True, "add_generation_prompt": False}
            messages.append(last)
        return {**body, **self._extra_body}

    def parser_for(self, prompt: Prompt) -> ChatParser:
        """See `WireModel.parser_for`."""
        return ChatParser(self.endpoint)


def sampling(parameters: Parameters, max_tokens_field: str) -> Json:
    """The parameters that were set, under their names on the wire."""
    values: Json = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        max_tokens_field: parameters.max_tokens,
        "seed": parameters.seed,
        "stop": list(parameters.stop) or None,
        "reasoning_effort": parameters.reasoning_effort,
    }
    return {name: value for name, value in values.items() if value is not None}


class ChatParser(AnswerParser[SseEvent]):
    """Chunks to events."""

    __slots__ = ()

    def plain(self, data: bytes) -> str | None:
        """See `AnswerParser.plain`."""
        try:
            chunk = _CHUNK.decode(data)
        except ValueError:
            return None
        choices = chunk.choices
        if not choices or len(choices) > 1 or chunk.usage is not None or chunk.error is not None:
            return None
        choice = choices[0]
        delta = choice.delta
        if delta is None or choice.finish_reason or choice.index:
            return None
        text = delta.content
        if type(text) is not str or delta.reasoning_content or delta.reasoning or delta.refusal or delta.tool_calls:
            return None
        return self.clean_text(text)

    def feed(self, record: SseEvent, out: list[Event]) -> None:
        """See `AnswerParser.feed`."""
        data = record[1]
        if len(data) < 10:
            word = data.strip()
            self.done = word == b"[DONE]"
            if self.done or not word:
                return
        chunk = decode_json(data, _CHUNK, Chunk)
        if chunk.error is not None:
            raise in_band_object(self.endpoint, chunk.error)
        usage = chunk.usage
        if usage is not None and usage.prompt_tokens is not None:
            self.usage = Usage(usage.prompt_tokens, usage.completion_tokens or 0)
        if chunk.choices:
            for choice in chunk.choices:
                if choice.index == 0:
                    self._choice(choice, out)

    def _choice(self, choice: _Choice, out: list[Event]) -> None:
        delta = choice.delta
        if delta is not None:
            # Some vendors send the same thought under both names.
            if thought := delta.reasoning_content or delta.reasoning:
                self.add_reasoning(thought, out)
            if delta.content:
                self.add_text(delta.content if isinstance(delta.content, str) else _text_parts(delta.content), out)
            if delta.refusal:
                self.add_text(delta.refusal, out)
            if delta.tool_calls:
                self._calls(delta.tool_calls, out)
        if choice.finish_reason:
            if choice.finish_reason in _BROKEN_OFF:
                raise ModelUnavailable("The model's service reported a failure.")
            self.reason = REASONS.get(choice.finish_reason, "stop")

    def _calls(self, calls: list[_ToolCall], out: list[Event]) -> None:
        for call in calls:
            function = call.function or _Function()
            self.add_tool_call(call.index, call.id or "", function.name or "", function.arguments or "", out)


def _text_parts(parts: list[Any]) -> str:
    """Mistral sends content as a list of parts where it thinks; only the text parts are the answer."""
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type", "text") == "text")
    return "".join(text for text in texts if isinstance(text, str))
