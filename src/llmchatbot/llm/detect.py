"""Finds out what an address speaks: asked at the first call, never at start, and remembered.

`GET /health` with `status` and `model_loaded` is the NDJSON contract; a list of models at `/v1/models` is OpenAI's
protocol. LLM_SERVICE_PROTOCOL answers the question without asking.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from llmchatbot.errors import ModelError, ModelMisconfigured, ModelTimeout, ModelUnavailable
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.events import Event
from llmchatbot.llm.ndjson import Health, NdjsonModel
from llmchatbot.llm.openai_chat import OpenAiChatModel, PrefixStyle
from llmchatbot.llm.port import Model, Prompt, Sink
from llmchatbot.llm.transport import HttpTransport
from llmchatbot.llm.wire import Json, fetch

_log = logging.getLogger(__name__)


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Listed(msgspec.Struct):
    """One listed model. Three servers, three names for the window: vLLM's, our own and OpenRouter's, llama.cpp's."""

    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: _Meta | None = None

    @property
    def window(self) -> int:
        return self.max_model_len or self.context_length or (self.meta.n_ctx if self.meta else None) or 0


class _Models(msgspec.Struct):
    data: list[_Listed]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks at an address. `name` ("") and `window` (0) are what its list of models says of the first one."""

    model: Model
    protocol: str
    name: str = ""
    window: int = 0


class DetectedModel:
    """A model whose protocol, or whose name, is found out at the first call."""

    def __init__(
        self,
        transport: HttpTransport,
        endpoints: list[Endpoint],
        *,
        name: str = "",
        protocol: str = "auto",
        max_tokens_field: str = "max_tokens",
        prefix_style: PrefixStyle = "assistant",
        extra_body: Json | None = None,
    ) -> None:
        """The first of `endpoints` that answers is taken. `name` is the wanted model, where that is known."""
        self._transport = transport
        self._endpoints = endpoints
        self._name = name
        self._protocol = protocol
        self._max_tokens_field = max_tokens_field
        self._prefix_style: PrefixStyle = prefix_style
        self._extra_body = extra_body
        self._found: Found | None = None
        self._lock = asyncio.Lock()

    @property
    def found(self) -> Found | None:
        """What was found; None before the first call."""
        return self._found

    async def find(self) -> Found:
        """Ask, once. Raises ModelUnavailable while nobody answers, ModelMisconfigured when the answer fits nothing."""
        async with self._lock:
            if self._found is None:
                self._found = await self._ask_all()
                _log.info("model service found protocol=%s model=%s", self._found.protocol, self._found.name)
            return self._found

    async def _ask_all(self) -> Found:
        problem: ModelError | None = None
        for endpoint in self._endpoints:
            try:
                return await self._ask(endpoint)
            except ModelError as error:
                if problem is None or isinstance(problem, (ModelUnavailable, ModelTimeout)):
                    problem = error
        raise problem or ModelUnavailable()

    async def _ask(self, endpoint: Endpoint) -> Found:
        unreachable: ModelError | None = None
        if self._protocol in {"auto", "ndjson"}:
            try:
                return await self._ask_ndjson(endpoint)
            except (ModelUnavailable, ModelTimeout) as error:
                # llama.cpp answers 503 here while it loads, so the other protocol is asked all the same
                unreachable = error
            except (ModelError, msgspec.MsgspecError, UnicodeDecodeError):
                _log.debug("no NDJSON service host=%s", endpoint.host)
        try:
            return await self._ask_openai(endpoint)
        except (ModelMisconfigured, msgspec.MsgspecError, UnicodeDecodeError) as error:
            if isinstance(error, ModelMisconfigured) and "key" in error.detail:
                raise
            raise unreachable or ModelMisconfigured(
                f"{endpoint.url_setting} speaks neither the NDJSON contract (GET /health) nor OpenAI's protocol"
                " (GET /v1/models); check the address, or say which with LLM_SERVICE_PROTOCOL."
            ) from error

    async def _ask_ndjson(self, endpoint: Endpoint) -> Found:
        model = NdjsonModel(self._transport, endpoint)
        data = await fetch(self._transport, _for_asking(endpoint), endpoint.join("health"), model.auth_headers())
        msgspec.json.decode(data, type=Health)
        return Found(model=model, protocol="ndjson")

    async def _ask_openai(self, endpoint: Endpoint) -> Found:
        base = msgspec.structs.replace(endpoint, url=with_version(endpoint.url))
        model = OpenAiChatModel(
            self._transport,
            base,
            max_tokens_field=self._max_tokens_field,
            prefix_style=self._prefix_style,
            extra_body=self._extra_body,
        )
        data = await fetch(self._transport, _for_asking(base), base.join("models"), model.auth_headers())
        listed = msgspec.json.decode(data, type=_Models)
        if not listed.data:
            raise ModelUnavailable(f"{endpoint.url_setting} lists no model; load one there.")
        first = next((entry for entry in listed.data if entry.id == self._name), listed.data[0])
        return Found(model=model, protocol="openai", name=first.id, window=first.window)

    async def stream(self, prompt: Prompt, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        """See `port.Model.stream`. A prompt without a model's name takes the first one listed."""
        found = await self.find()
        if not prompt.model:
            prompt = msgspec.structs.replace(prompt, model=found.name or "default")
        async with aclosing(found.model.stream(prompt, sink)) as batches:
            async for batch in batches:
                yield batch

    async def health(self) -> bool:
        """See `port.Model.health`."""
        try:
            return await (await self.find()).model.health()
        except ModelError:
            return False

    async def aclose(self) -> None:
        """Holds nothing."""


def _for_asking(endpoint: Endpoint) -> Endpoint:
    """The same endpoint with little patience: a question that hangs must not eat the time of the answer."""
    limits = msgspec.structs.replace(endpoint.limits, first_byte=min(endpoint.limits.first_byte, 5.0), whole=10.0)
    return msgspec.structs.replace(endpoint, limits=limits)


def with_version(url: str) -> str:
    """The base URL of OpenAI's protocol: `/v1` is added to an address that has no path."""
    base = url.rstrip("/")
    return base if base.count("/") > 2 else f"{base}/v1"
