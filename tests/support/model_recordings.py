"""Recorded byte streams of every protocol, and what replays them: a transport, and a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import msgspec

from llmchatbot.errors import ModelError, ModelInterrupted
from llmchatbot.llm.anthropic import AnthropicModel
from llmchatbot.llm.body import Take
from llmchatbot.llm.endpoint import Endpoint, Secret, TimeLimits
from llmchatbot.llm.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from llmchatbot.llm.gemini import GeminiModel
from llmchatbot.llm.ndjson import NdjsonModel
from llmchatbot.llm.openai_chat import OpenAiChatModel
from llmchatbot.llm.openai_responses import OpenAiResponsesModel
from llmchatbot.llm.port import Model, Parameters, Prompt, PromptMessage
from llmchatbot.llm.transport import HttpRequest, HttpStream, HttpTransport

CANARY = "upstream-canary-4711"
KEY = "sk-canary-0815"
TEXT = "Hé\u2028llo 世界 😀 “ok”\n"


def _json(value: Any) -> bytes:
    """As providers write it: some escape everything, some nothing; here half and half."""
    return json.dumps(value, ensure_ascii="delta" in str(value)[:20]).encode()


def _sse(*values: Any, end: bytes = b"\n\n", named: bool = False) -> bytes:
    frames = []
    for value in values:
        name = f"event: {value['type']}\n".encode() if named else b""
        frames.append(name + b"data: " + _json(value) + end)
    return b"".join(frames)


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One protocol: how its model is built, and what its provider sends."""

    name: str
    build: Callable[[HttpTransport, Endpoint], Any]
    media: str
    good: bytes
    whole_at: int
    """Bytes of `good` after which the answer is whole: the explicit end has been read."""
    error: bytes
    """An error record in mid-stream."""
    tokens: Callable[[Sequence[str]], bytes]
    """Records that carry these pieces of text, raw JSON strings without their quotes."""
    finish: bytes
    """The records that end an answer well."""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    usage: Usage | None = None
    reason: FinishReason = "stop"
    text: str = TEXT

    @property
    def json_lines(self) -> bool:
        return self.media == "application/x-ndjson"


def _chat_tokens(pieces: Sequence[str]) -> bytes:
    return b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % piece.encode()
        for piece in pieces
    )


def _chat() -> Recording:
    finish = (
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}\n\ndata: [DONE]\n\n'
    )
    start = (
        b"\xef\xbb\xbf: OPENROUTER PROCESSING\n\n"
        b'data: {"id":"1","choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm ","reasoning":"hm "}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"reasoning":"so"}}]}\n\n'
    )
    text = _chat_tokens(["H\u00e9", "\u2028llo \\u4e16", "\u754c \\ud83d\\ude00 ", "\u201cok\u201d\\n"])
    calls = (
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function",'
        b'"function":{"name":"look","arguments":""}}]}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,'
        b'"function":{"arguments":"{\\"a\\":1}"}}]}}]}\n\n'
    )
    good = start + text + calls + finish
    return Recording(
        name="openai",
        build=OpenAiChatModel,
        media="text/event-stream",
        good=good,
        whole_at=good.index(b'"tool_calls"}]}\n\n') + len(b'"tool_calls"}]}\n\n'),
        error=b'data: {"error":{"message":"' + CANARY.encode() + b'","type":"server_error"}}\n\n',
        tokens=_chat_tokens,
        finish=b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        reasoning="hm so",
        tool_calls=(ToolCallDelta(0, "c1", "look", ""), ToolCallDelta(0, "", "", '{"a":1}')),
        usage=Usage(12, 9),
        reason="tool_calls",
    )


def _responses_tokens(pieces: Sequence[str]) -> bytes:
    return b"".join(
        b"event: response.output_text.delta\n"
        b'data: {"type":"response.output_text.delta","output_index":1,"sequence_number":4,"delta":"%b"}\n\n'
        % piece.encode()
        for piece in pieces
    )


def _responses() -> Recording:
    start = _sse(
        {"type": "response.created", "response": {"id": "r", "status": "in_progress", "error": None}},
        {"type": "response.in_progress", "response": {"usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm so"},
        {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
        named=True,
    )
    text = _responses_tokens(["H\u00e9\\u2028", "llo 世", "界 \U0001f600 “ok”", "\\n"])
    calls = _sse(
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {"type": "function_call", "call_id": "c1", "name": "look", "arguments": ""},
        },
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"a":1}'},
        {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": '{"a":1}'},
        named=True,
    )
    end = _sse(
        {
            "type": "response.completed",
            "response": {"status": "completed", "usage": {"input_tokens": 12, "output_tokens": 9}},
        },
        named=True,
    )
    good = start + text + calls + end
    return Recording(
        name="openai-responses",
        build=OpenAiResponsesModel,
        media="text/event-stream",
        good=good,
        whole_at=len(good),
        error=_sse(
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": CANARY}}}, named=True
        ),
        tokens=_responses_tokens,
        finish=_sse({"type": "response.completed", "response": {"status": "completed"}}, named=True),
        reasoning="hm so",
        tool_calls=(ToolCallDelta(2, "c1", "look", ""), ToolCallDelta(2, "", "", '{"a":1}')),
        usage=Usage(12, 9),
        reason="tool_calls",
    )


def _anthropic_tokens(pieces: Sequence[str]) -> bytes:
    return b"".join(
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,'
        b'"delta":{"type":"text_delta","text":"%b"}}\n\n' % piece.encode()
        for piece in pieces
    )


def _anthropic() -> Recording:
    start = _sse(
        {
            "type": "message_start",
            "message": {"id": "m", "usage": {"input_tokens": 2, "cache_read_input_tokens": 10, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm so"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "xx"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        named=True,
    )
    text = _anthropic_tokens(["H\u00e9\u2028llo ", "世界 \\ud83d\\ude00 ", "“ok”\\n"])
    calls = _sse(
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
        named=True,
    )
    delta = _sse(
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}, named=True
    )
    stop = _sse({"type": "message_stop"}, named=True)
    good = start + text + calls + delta + stop
    return Recording(
        name="anthropic",
        build=AnthropicModel,
        media="text/event-stream",
        good=good,
        whole_at=len(good) - len(stop),
        error=_sse({"type": "error", "error": {"type": "api_error", "message": CANARY}}, named=True),
        tokens=_anthropic_tokens,
        finish=_sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, named=True) + stop,
        reasoning="hm so",
        tool_calls=(ToolCallDelta(2, "c1", "look", ""), ToolCallDelta(2, "", "", '{"a":1}')),
        usage=Usage(12, 9),
        reason="tool_calls",
    )


def _gemini_tokens(pieces: Sequence[str]) -> bytes:
    return b"".join(
        b'data: {"candidates":[{"content":{"parts":[{"text":"%b"}],"role":"model"},"index":0}]}\r\n\r\n'
        % piece.encode()
        for piece in pieces
    )


def _gemini() -> Recording:
    start = _sse(
        {
            "candidates": [{"content": {"parts": [{"text": "hm so", "thought": True}]}}],
            "usageMetadata": {"promptTokenCount": 12},
        },
        end=b"\r\n\r\n",
    )
    text = _gemini_tokens(["H\u00e9\\u2028llo ", "世界 \U0001f600 “ok”\\n"])
    end = _sse(
        {
            "candidates": [
                {
                    "content": {
                        "parts": [{"functionCall": {"name": "look", "args": {"a": 1}}, "thoughtSignature": "x"}]
                    },
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 4, "thoughtsTokenCount": 5},
        },
        end=b"\r\n\r\n",
    )
    good = start + text + end
    return Recording(
        name="gemini",
        build=GeminiModel,
        media="text/event-stream",
        good=good,
        # the CR of the blank line ends it; its LF adds nothing
        whole_at=len(good) - 1,
        error=b'data: {"error":{"code":500,"message":"' + CANARY.encode() + b'","status":"INTERNAL"}}\r\n\r\n',
        tokens=_gemini_tokens,
        finish=_sse({"candidates": [{"finishReason": "STOP"}]}, end=b"\r\n\r\n"),
        reasoning="hm so",
        tool_calls=(ToolCallDelta(0, "", "look", '{"a":1}'),),
        usage=Usage(12, 9),
        reason="tool_calls",
    )


def _ndjson_tokens(pieces: Sequence[str]) -> bytes:
    return b"".join(b'{"type":"token","content":"%b","tokens":1}\n' % piece.encode() for piece in pieces)


def _ndjson() -> Recording:
    text = _ndjson_tokens(["H\u00e9", "\u2028llo \\u4e16", "\u754c \\ud83d\\ude00 ", "\u201cok\u201d\\n"])
    end = json.dumps({"type": "complete", "content": TEXT, "tokens": 4}, ensure_ascii=False).encode() + b"\n"
    good = b'{"type":"progress","content":"unknown types are ignored"}\r\n\n' + text + end
    return Recording(
        name="ndjson",
        build=NdjsonModel,
        media="application/x-ndjson",
        good=good,
        # a JSON document needs no line end to be whole
        whole_at=len(good) - 1,
        error=json.dumps({"type": "error", "content": CANARY}).encode() + b"\n",
        tokens=_ndjson_tokens,
        finish=b'{"type":"complete","content":"","tokens":1}\n',
    )


RECORDINGS = {recording.name: recording for recording in (_chat(), _responses(), _anthropic(), _gemini(), _ndjson())}


class Answer(msgspec.Struct):
    """All that one call gave."""

    events: list[Event]
    error: ModelError | None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def tool_calls(self) -> tuple[ToolCallDelta, ...]:
        return tuple(event for event in self.events if isinstance(event, ToolCallDelta))

    @property
    def finished(self) -> bool:
        return any(isinstance(event, Finished) for event in self.events)

    def without_cuts(self) -> tuple[Any, ...]:
        """What must not depend on how the bytes were cut."""
        usage = tuple(event for event in self.events if isinstance(event, Usage | Finished))
        error = None if self.error is None else (self.error.code, self.error.detail)
        return self.text, self.reasoning, self.tool_calls, usage, error


PROMPT = Prompt(
    model="m",
    messages=(
        PromptMessage(role="system", content="Be brief."),
        PromptMessage(role="user", content="One?"),
        PromptMessage(role="assistant", content="Two."),
        PromptMessage(role="user", content="Three?"),
    ),
    parameters=Parameters(temperature=0.5, top_p=0.9, max_tokens=7, seed=3, stop=("x",), reasoning_effort="low"),
)


class Heard:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    @property
    def size(self) -> int:
        deltas = (event for event in self.all if isinstance(event, TextDelta | ReasoningDelta))
        return sum(len(delta.text.encode()) for delta in deltas)

    def text(self, piece: str) -> None:
        assert piece, "an empty piece wakes readers for nothing"
        self.all.append(TextDelta(piece))

    def events(self, batch: list[Event]) -> None:
        assert batch, "an empty batch wakes readers for nothing"
        self.all.extend(batch)


async def ask(model: Model, prompt: Prompt = PROMPT, *, relayed: bool = True) -> Answer:
    """Everything that the model says, and the error that ended it; `relayed`: through a sink, as the product asks."""
    heard = Heard()
    try:
        async for batch in model.stream(prompt, heard if relayed else None):
            heard.events(batch)
    except ModelError as error:
        return Answer(heard.all, error)
    return Answer(heard.all, None)


class _ReplayStream:
    def __init__(self, chunks: list[bytes], error: ModelError | None) -> None:
        self._chunks = list(reversed(chunks))
        self._error = error
        self.closed = False

    async def read(self) -> bytes:
        if self._chunks:
            return self._chunks.pop()
        if self._error is not None:
            raise self._error
        return b""

    async def relay(self, take: Take) -> None:
        while piece := await self.read():
            if take(piece):
                return

    def expect_end(self, seconds: float) -> None:
        assert seconds > 0

    async def aclose(self) -> None:
        self.closed = True


class ReplayTransport(HttpTransport):
    """Gives recorded chunks instead of a connection, so that thousands of cuts take a second."""

    def __init__(self, chunks: list[bytes], error: ModelError | None = None) -> None:
        super().__init__()
        self._chunks, self._error = chunks, error
        self.requests: list[HttpRequest] = []
        self.streams: list[_ReplayStream] = []

    async def open(self, request: HttpRequest) -> HttpStream:
        self.requests.append(request)
        stream = _ReplayStream([chunk for chunk in self._chunks if chunk], self._error)
        self.streams.append(stream)
        return cast("HttpStream", stream)


ENDPOINT = Endpoint(
    url="http://model.invalid/v1",
    key=Secret(KEY),
    key_setting="SOME_KEY",
    limits=TimeLimits(connect=10, first_byte=20, chunk=20, whole=60),
)


async def replay(recording: Recording, *chunks: bytes, broken: bool = False) -> Answer:
    """What the protocol makes of these chunks; `broken` ends in a cut connection instead of a proper end."""
    error = ModelInterrupted("cut") if broken else None
    transport = ReplayTransport(list(chunks), error)
    model = recording.build(transport, ENDPOINT)
    answer = await ask(model)
    batched = await ask(model, relayed=False)
    assert batched.events == answer.events, "a sink gets something else than a reader of batches"
    assert str(batched.error) == str(answer.error)
    assert all(stream.closed for stream in transport.streams), "the connection was not closed"
    return answer


class RawServer:
    """Sends prepared bytes over a real socket to whoever connects, and knows when it was closed on."""

    def __init__(self) -> None:
        self.answers: list[tuple[list[bytes], str]] = []
        """For each request in turn: the pieces, and what follows: end, cut or stall. The last one repeats."""
        self.heads: list[bytes] = []
        self.asked = asyncio.Event()
        self.open_connections = 0
        self.all_closed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def answer(self, *pieces: bytes, media: str = "text/event-stream", status: int = 200, then: str = "end") -> None:
        """Queue one answer, in HTTP chunks."""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        frames = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        if then == "end":
            frames.append(b"0\r\n\r\n")
        self.answers.append(([head, *frames], then))

    def answer_raw(self, *pieces: bytes, then: str = "end") -> None:
        """Queue bytes as they are."""
        self.answers.append((list(pieces), then))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        self.all_closed.clear()
        try:
            await self._respond(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()
            self.open_connections -= 1
            if not self.open_connections:
                self.all_closed.set()
            self._tasks.discard(task)

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        self.asked.set()
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        pieces, then = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then == "cut":
            writer.transport.abort()
        elif then == "stall":
            await reader.read()
