"""How an answer leaves: as the lines of the NDJSON contract, as OpenAI's stream, or as OpenAI's one object.

All three take the payloads of the engine's stream, and all three end well only if the engine said that it ended.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import msgspec
from aiohttp import web

from llmchatbot.llm_service.chunks import Chunk, Delta, Timings, parse
from llmchatbot.llm_service.relay import KEEP_ALIVE, RefusedError, interrupted

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
_DONE = b"[DONE]"
_encode = msgspec.json.Encoder().encode


class CallerLeftError(Exception):
    """The connection to the caller is gone; there is nobody to tell."""


class Output(ABC):
    """One answer on its way out. `fail` works before the first byte (a status) and after it (a record)."""

    protocol: str

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.first_token_at: float | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self._response: web.StreamResponse | None = None
        self._written_at = time.monotonic()

    @abstractmethod
    async def payloads(self, payloads: list[bytes]) -> None:
        """Take what one network read brought. Raises RefusedError when the engine failed in mid-stream."""

    @abstractmethod
    async def finish(self) -> web.StreamResponse:
        """The engine's stream is over. Raises RefusedError when its end mark is missing."""

    @abstractmethod
    async def fail(self, refused: RefusedError) -> web.StreamResponse:
        """Tell the caller."""

    async def keep_alive(self) -> None:
        """A sign of life while the answer waits for a slot or reads a long prompt, if none was sent lately."""
        if time.monotonic() - self._written_at >= KEEP_ALIVE:
            await self._sign_of_life()

    @abstractmethod
    async def _sign_of_life(self) -> None: ...

    def _count(self, timings: Timings) -> None:
        self.input_tokens = timings.prompt_n + timings.cache_n
        self.output_tokens = timings.predicted_n

    def _saw_token(self) -> None:
        self.output_tokens += 1  # until the engine gives the true number with its last chunk
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()


class _Stream(Output):
    content_type: str

    async def _write(self, data: bytes) -> None:
        try:
            if self._response is None:
                response = web.StreamResponse(headers={**STREAM_HEADERS, "Content-Type": self.content_type})
                await response.prepare(self.request)
                self._response = response
            await self._response.write(data)
        except ConnectionError as error:
            raise CallerLeftError from error
        self._written_at = time.monotonic()

    async def _end(self) -> web.StreamResponse:
        if self._response is None:
            raise interrupted()
        try:
            await self._response.write_eof()
        except ConnectionError as error:
            raise CallerLeftError from error
        return self._response


class NdjsonOutput(_Stream):
    """Lines `{type, content, tokens}`. `tokens` counts the whole answer and stands in the last line, 0 before."""

    protocol = "ndjson"
    content_type = "application/x-ndjson"

    def __init__(self, request: web.Request) -> None:
        super().__init__(request)
        self._parts: list[str] = []
        self._finished = False

    async def payloads(self, payloads: list[bytes]) -> None:
        """See `Output.payloads`."""
        lines = []
        for payload in payloads:
            if payload == _DONE:
                continue
            chunk = parse(payload)
            if chunk.timings is not None:
                self._count(chunk.timings)
            for choice in chunk.choices:
                self._finished = self._finished or choice.finish_reason is not None
                if text := choice.delta.content:
                    self._saw_token()
                    self._parts.append(text)
                    lines.append(b'{"type":"token","content":' + _encode(text) + b',"tokens":0}\n')
                elif choice.delta.reasoning_content:
                    await self.keep_alive()
        if lines:
            await self._write(b"".join(lines))

    async def finish(self) -> web.StreamResponse:
        """See `Output.finish`."""
        if not self._finished:
            raise interrupted()
        line = {
            "type": "complete",
            "content": "".join(self._parts),
            "tokens": self.output_tokens,
            "input_tokens": self.input_tokens,
        }
        await self._write(_encode(line) + b"\n")
        return await self._end()

    async def fail(self, refused: RefusedError) -> web.StreamResponse:
        """See `Output.fail`."""
        if self._response is None:
            return refusal(refused, ndjson=True)
        await self._write(_encode({"type": "error", "content": refused.message, "tokens": 0}) + b"\n")
        return await self._end()

    async def _sign_of_life(self) -> None:
        # The contract has no comments; a token without text changes nothing for anyone.
        await self._write(b'{"type":"token","content":"","tokens":0}\n')


class SseOutput(_Stream):
    """OpenAI's stream, passed on as the engine wrote it."""

    protocol = "openai"
    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, request: web.Request) -> None:
        super().__init__(request)
        self._done = False

    async def payloads(self, payloads: list[bytes]) -> None:
        """See `Output.payloads`."""
        for payload in payloads:
            if payload == _DONE:
                self._done = True
            elif b'"timings"' in payload or payload.startswith(b'{"error"'):
                chunk = parse(payload)
                if chunk.timings is not None:
                    self._count(chunk.timings)
            elif b'"content":null' not in payload:
                self._saw_token()
        if payloads:
            await self._write(b"".join([b"data: " + payload + b"\n\n" for payload in payloads]))

    async def finish(self) -> web.StreamResponse:
        """See `Output.finish`."""
        if not self._done:
            raise interrupted()
        return await self._end()

    async def fail(self, refused: RefusedError) -> web.StreamResponse:
        """See `Output.fail`."""
        if self._response is None:
            return refusal(refused)
        await self._write(b"data: " + _encode(_error_object(refused)) + b"\n\n")
        return await self._end()

    async def _sign_of_life(self) -> None:
        await self._write(b": still working\n\n")


class ObjectOutput(Output):
    """OpenAI's answer in one object, put together from the stream."""

    protocol = "openai"

    def __init__(self, request: web.Request) -> None:
        super().__init__(request)
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._last = Chunk()
        self._usage: dict[str, Any] | None = None
        self._reason: str | None = None

    async def payloads(self, payloads: list[bytes]) -> None:
        """See `Output.payloads`."""
        for payload in payloads:
            if payload == _DONE:
                continue
            self._last = chunk = parse(payload)
            self._usage = chunk.usage or self._usage
            if chunk.timings is not None:
                self._count(chunk.timings)
            for choice in chunk.choices:
                self._reason = choice.finish_reason or self._reason
                self._add(choice.delta)

    def _add(self, delta: Delta) -> None:
        if delta.content:
            self._saw_token()
            self._text.append(delta.content)
        if delta.reasoning_content:
            self._thoughts.append(delta.reasoning_content)
        for part in delta.tool_calls or []:
            empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            call = self._calls.setdefault(part.index, empty)
            call["id"] = call["id"] or part.id or ""
            call["function"]["name"] += part.function.name or ""
            call["function"]["arguments"] += part.function.arguments or ""

    async def finish(self) -> web.StreamResponse:
        """See `Output.finish`."""
        if self._reason is None:
            raise interrupted()
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) or None}
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        body = {
            "id": self._last.id,
            "object": "chat.completion",
            "created": self._last.created,
            "model": self._last.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self._reason}],
            "usage": self._usage,
        }
        return web.Response(body=_encode(body), content_type="application/json", headers=STREAM_HEADERS)

    async def fail(self, refused: RefusedError) -> web.StreamResponse:
        """See `Output.fail`."""
        return refusal(refused)

    async def _sign_of_life(self) -> None:
        """One object cannot be begun before it is known how it ends."""


def _error_object(refused: RefusedError) -> dict[str, Any]:
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {"error": {"message": refused.message, "type": kind, "code": refused.code}}


def refusal(refused: RefusedError, *, ndjson: bool = False) -> web.Response:
    """The answer before a stream has begun. The NDJSON contract puts the text of an error into `content`."""
    body: dict[str, Any] = _error_object(refused)
    if ndjson:
        body = {
            "type": "error",
            "content": refused.message,
            "tokens": 0,
            "error": refused.message,
            "code": refused.code,
        }
    headers = dict(STREAM_HEADERS)
    if refused.retry_after:
        headers["Retry-After"] = str(refused.retry_after)
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=refused.status, body=_encode(body), content_type="application/json", headers=headers)
