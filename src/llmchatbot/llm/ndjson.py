"""The NDJSON contract of the LLM service: `POST /api/v1/generate/stream`, lines of token, complete, error.

The prompt is the newest message of the user and stands *only* in `prompt`; `history` is what came before it. The first
backend sent it in both, so the model read it twice (fault 4).
"""

from __future__ import annotations

import logging

import msgspec

from llmchatbot.errors import ModelError
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.events import Event, Usage
from llmchatbot.llm.http_errors import in_band_object
from llmchatbot.llm.port import Prompt
from llmchatbot.llm.text import decode_json
from llmchatbot.llm.transport import HttpRequest
from llmchatbot.llm.wire import AnswerParser, Json, NdjsonWireModel, fetch

_log = logging.getLogger(__name__)

SUPPORTED: frozenset[str] = frozenset()
"""The contract knows no parameters."""


class Line(msgspec.Struct):
    """One line of the answer. Unknown members are ignored."""

    type: str = ""
    content: str | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    error: object = None


_LINE = msgspec.json.Decoder(Line)


class Health(msgspec.Struct):
    """The answer of `GET /health`; `model_loaded` is what tells this service from others."""

    status: str
    model_loaded: bool
    device: str = ""


class NdjsonModel(NdjsonWireModel):
    """One LLM service."""

    def request_for(self, prompt: Prompt) -> HttpRequest:
        """See `WireModel.request_for`."""
        return HttpRequest(
            endpoint=self.endpoint,
            url=self.endpoint.join("api/v1/generate/stream"),
            headers={
                "Content-Type": "application/json",
                "Accept": "application/x-ndjson",
                **self.auth_headers(),
            },
            body=msgspec.json.encode(body_for(prompt)),
        )

    def parser_for(self, prompt: Prompt) -> NdjsonParser:
        """See `WireModel.parser_for`."""
        return NdjsonParser(self.endpoint)

    async def health(self) -> bool:
        """Whether the service says that its model is loaded."""
        try:
            data = await fetch(self.transport, self.endpoint, self.endpoint.join("health"), self.auth_headers())
            return msgspec.json.decode(data, type=Health).model_loaded
        except (ModelError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.info("upstream is not healthy host=%s error=%s", self.endpoint.host, type(error).__name__)
            return False


def body_for(prompt: Prompt) -> Json:
    """The request body: `prompt` is the last message, `history` all before it, each message once."""
    *history, last = prompt.messages
    return {
        "prompt": last.content,
        "history": [{"role": message.role, "content": message.content} for message in history],
        "model": prompt.model,
    }


class NdjsonParser(AnswerParser[bytes]):
    """Lines to events. `complete` carries the whole text; what its tokens did not bring is added, never repeated."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._received: list[str] = []

    def feed(self, record: bytes, out: list[Event]) -> None:
        """See `AnswerParser.feed`."""
        line = decode_json(record, _LINE, Line)
        if line.type == "token":
            if line.content:
                self._received.append(line.content)
                self.add_text(line.content, out)
        elif line.type == "complete":
            self._complete(line, out)
        elif line.type == "error" or line.error is not None:
            raise in_band_object(self.endpoint, line.error if line.content is None else line.content)

    def _complete(self, line: Line, out: list[Event]) -> None:
        if line.content:
            # A service that does not stream sends only its last line. One that says something else there is not
            # believed: what was shown is shown.
            received = "".join(self._received)
            if line.content.startswith(received):
                self.add_text(line.content[len(received) :], out)
        if line.tokens is not None and line.input_tokens is not None:
            self.usage = Usage(line.input_tokens, line.tokens)
        self.reason = "stop"
        self.done = True
