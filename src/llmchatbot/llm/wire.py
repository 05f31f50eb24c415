"""What all protocols over HTTP share: read pieces, decode records, parse them into events, never invent an end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any, Generic, Protocol, TypeVar

from llmchatbot.errors import ModelError, ModelInterrupted, ModelProtocolError
from llmchatbot.llm.decoder import NdjsonDecoder, SseDecoder, SseEvent
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from llmchatbot.llm.port import Prompt, Sink
from llmchatbot.llm.shape import PieceShape
from llmchatbot.llm.text import TextCleaner, common_length
from llmchatbot.llm.transport import HttpRequest, HttpStream, HttpTransport, require_stream

_log = logging.getLogger(__name__)

_END_SECONDS = 3.0
"""Once the stop reason came, the rest (usage, end mark) is on its way or never comes."""

Record = TypeVar("Record")
Record_contra = TypeVar("Record_contra", contravariant=True)


class Decoder(Protocol[Record]):
    """Bytes to records; see `decoder`."""

    failure: ModelProtocolError | None

    def single(self, chunk: bytes) -> bytes | None:
        """The data of the one plain record that `chunk` is; None, and nothing is taken, when it is not that."""
        ...

    def feed(self, chunk: bytes) -> list[Record]: ...

    def finish(self) -> list[Record]: ...


class AnswerParser(Generic[Record_contra]):
    """Records to events, for one answer. A protocol overrides `feed` and sets `reason`, `usage` and `done`."""

    __slots__ = ("_arguments", "_reasoning", "_repeated_space", "_text", "done", "endpoint", "reason", "usage")

    def __init__(self, endpoint: Endpoint, *, prefix: str = "") -> None:
        self.endpoint = endpoint
        self.reason: FinishReason | None = None
        """The explicit end of the upstream. Without it there is no `Finished`."""
        self.usage: Usage | None = None
        self.done = False
        """Nothing further is worth reading."""
        self._text = TextCleaner()
        self._reasoning = TextCleaner()
        self._arguments: dict[int, TextCleaner] = {}
        # Providers refuse or trim white space at the end of a prefix; then the model may repeat it.
        self._repeated_space = prefix[len(prefix.rstrip()) :]

    @property
    def settled(self) -> bool:
        """Nothing of the text so far waits for what follows."""
        return not (self._text.waiting or self._repeated_space)

    def plain(self, data: bytes) -> str | None:
        """The text of a record that is nothing but a piece of the answer; None, and nothing is taken, for any other.

        A short way for what comes thousands of times; whoever does not offer it is fed all records.
        """
        return None

    def feed(self, record: Record_contra, out: list[Event]) -> None:
        """Append the events of one record. Raises ModelError for an error record or what cannot be read."""
        raise NotImplementedError

    def add_text(self, piece: str, out: list[Event]) -> None:
        """Append a piece of the answer."""
        if piece := self.clean_text(piece):
            out.append(TextDelta(piece))

    def clean_text(self, piece: str) -> str:
        """A piece of the answer as it may be shown; "" when it must wait for more."""
        if self._repeated_space:
            piece = self._drop_repeated_space(piece)
        # what nearly all of them are goes without a further call: this runs once per token
        if self._text.waiting or not piece.isascii() or "\x00" in piece:
            piece = self._text.feed(piece)
        return piece

    def add_reasoning(self, piece: str, out: list[Event]) -> None:
        """Append a piece of reasoning."""
        if piece := self._reasoning.feed(piece):
            out.append(ReasoningDelta(piece))

    def add_tool_call(self, index: int, call_id: str, name: str, arguments: str, out: list[Event]) -> None:
        """Append a piece of a tool call."""
        cleaner = self._arguments.setdefault(index, TextCleaner())
        out.append(ToolCallDelta(index, call_id, name, cleaner.feed(arguments)))

    def _drop_repeated_space(self, piece: str) -> str:
        expected = self._repeated_space
        common = common_length(piece, expected)
        self._repeated_space = expected[common:] if common == len(piece) else ""
        return piece[common:]

    def end(self, out: list[Event]) -> None:
        """Append what closes the answer. Raises ModelInterrupted when the upstream never said that it is whole."""
        if rest := self._text.flush():
            out.append(TextDelta(rest))
        if rest := self._reasoning.flush():
            out.append(ReasoningDelta(rest))
        if self.usage is not None:
            out.append(self.usage)
        if self.reason is None:
            raise ModelInterrupted("The model's stream ended without its end record.")
        out.append(Finished(self.reason))


class _Intake(Generic[Record]):
    """Pieces of one body to events, up to the end of the answer, and the error that ends it unless it is whole."""

    __slots__ = (
        "_began",
        "_decoder",
        "_last",
        "_model",
        "_parser",
        "_plain_before",
        "_shape",
        "_sink",
        "_upstream",
        "error",
        "over",
    )

    def __init__(self, model: WireModel[Record], upstream: HttpStream, prompt: Prompt) -> None:
        self._model = model
        self._upstream = upstream
        self._parser = model.parser_for(prompt)
        self._decoder = model.decoder()
        self._began = False
        self._shape = PieceShape()
        # The last piece was one plain record, and nothing of it waits for the next: only then its shape is asked for.
        self._plain_before = False
        self._sink: Sink
        # What ends a relayed answer is not for the sink.
        self._last: list[Event] = []
        self.over = False
        self.error: ModelError | None = None

    async def next_batch(self) -> list[Event]:
        """The events of the next piece; none when it completed no record."""
        try:
            piece = await self._upstream.read()
            if piece and not self._began:
                require_stream(self._model.endpoint, piece, json_lines=self._model.json_lines)
                self._began = True
        except ModelError as error:
            return self._broken(error)
        return self._take(piece) if piece else self._body_over()

    async def relay(self, sink: Sink) -> list[Event]:
        """Everything to `sink` as it comes, but what ends the answer."""
        self._sink = sink
        try:
            await self._upstream.relay(self._relay)
        except ModelError as error:
            # What came behind the end of an answer takes nothing of it away.
            if not self.over:
                return self._broken(error)
        return self._last if self.over else self._body_over()

    def _relay(self, piece: bytes) -> bool:
        """Runs once per token; whether the answer is over."""
        if self._plain_before:
            text = self._shape.text_of(piece)
            if text is not None:
                self._sink.text(text)
                return False
        text = self._plain(piece)
        if text is not None:
            self._plain_before = self._parser.settled
            if self._plain_before:
                self._shape.learn(piece, text, self._plain)
            if text:
                self._sink.text(text)
            return False
        self._plain_before = False
        batch = self._take(piece)
        if self.over:
            self._last = batch
        elif batch:
            self._sink.events(batch)
        return self.over

    def _plain(self, piece: bytes) -> str | None:
        """The text of a piece that is one plain record; None, and nothing is taken, for any other."""
        data = self._decoder.single(piece)
        return None if data is None else self._parser.plain(data)

    def _take(self, piece: bytes) -> list[Event]:
        batch: list[Event] = []
        parser, decoder = self._parser, self._decoder
        try:
            for record in decoder.feed(piece):
                parser.feed(record, batch)
                if parser.done:
                    break
            else:
                if decoder.failure is not None:
                    raise decoder.failure
        except ModelError as error:
            self._end(batch, error)
            return batch
        if parser.done:
            self._end(batch, None)
        elif parser.reason is not None:
            self._upstream.expect_end(_END_SECONDS)
        return batch

    def _body_over(self) -> list[Event]:
        batch: list[Event] = []
        try:
            for record in self._decoder.finish():
                self._parser.feed(record, batch)
        except ModelProtocolError as error:
            # half a record at the end of the body is a broken stream, not a broken protocol
            interrupted = ModelInterrupted("The model's stream ended within a record.")
            interrupted.__cause__ = error
            self._end(batch, interrupted)
        except ModelError as error:
            self._end(batch, error)
        else:
            self._end(batch, None)
        return batch

    def _broken(self, error: ModelError) -> list[Event]:
        batch: list[Event] = []
        self._end(batch, error)
        return batch

    def _end(self, batch: list[Event], error: ModelError | None) -> None:
        """Close the answer; `error` stays None when it is whole.

        A stop reason is an explicit end: what fails after it (a cut before `[DONE]`, a server that holds on) takes
        nothing from the answer. An error record or garbage does count, wherever it stands.
        """
        self.over = True
        connection_failed = error is None or (error.code in {"model_interrupted", "model_timeout"})
        if not connection_failed:
            self._parser.reason = None
        try:
            self._parser.end(batch)
        except ModelInterrupted as interrupted:
            self.error = error or interrupted


class WireModel(Generic[Record]):
    """A model behind HTTP. A protocol gives `request_for`, `parser_for` and `decoder`."""

    json_lines = False

    def __init__(self, transport: HttpTransport, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.transport = transport

    def request_for(self, prompt: Prompt) -> HttpRequest:
        """The HTTP request of one call."""
        raise NotImplementedError

    def parser_for(self, prompt: Prompt) -> AnswerParser[Record]:
        """A fresh parser for one answer."""
        raise NotImplementedError

    def decoder(self) -> Decoder[Record]:
        """A fresh decoder for one answer."""
        raise NotImplementedError

    async def stream(self, prompt: Prompt, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        """See `port.Model.stream`."""
        upstream = await self.transport.open(self.request_for(prompt))
        try:
            intake = _Intake(self, upstream, prompt)
            ended = False
            while not ended:
                batch = await intake.next_batch()
                if batch:
                    yield batch
                ended = intake.over
                if batch and sink is not None and not ended:
                    if batch := await intake.relay(sink):
                        yield batch
                    ended = True
            if intake.error is not None:
                raise intake.error
        finally:
            await upstream.aclose()

    async def get_json(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """Fetch a small document of the same origin, such as the list of models."""
        return await fetch(self.transport, self.endpoint, self.endpoint.join(path), self.auth_headers(), limit=limit)

    def auth_headers(self) -> dict[str, str]:
        """The header that carries the key; nothing without a key."""
        return {"Authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {}

    async def health(self) -> bool:
        """See `port.Model.health`: whether the models can be listed."""
        try:
            await self.get_json("models")
        except ModelError as error:
            _log.info("upstream is not healthy host=%s code=%s", self.endpoint.host, error.code)
            return False
        return True

    async def aclose(self) -> None:
        """Nothing of its own: connections belong to the transport, calls to their callers."""


async def fetch(
    transport: HttpTransport, endpoint: Endpoint, url: str, headers: dict[str, str], *, limit: int = 1 << 20
) -> bytes:
    """GET a small document. Raises as `HttpTransport.open` does."""
    request = HttpRequest(endpoint=endpoint, url=url, headers={"Accept": "application/json", **headers}, method="GET")
    stream: HttpStream = await transport.open(request)
    try:
        return await stream.read_all(limit)
    finally:
        await stream.aclose()


class SseModel(WireModel[SseEvent]):
    """A model that answers in server-sent events."""

    def decoder(self) -> SseDecoder:
        """See `WireModel.decoder`."""
        return SseDecoder()


class NdjsonWireModel(WireModel[bytes]):
    """A model that answers in lines of JSON."""

    json_lines = True

    def decoder(self) -> NdjsonDecoder:
        """See `WireModel.decoder`."""
        return NdjsonDecoder()


Json = dict[str, Any]
