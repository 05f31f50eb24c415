"""Tries one model with one short question: what `llmchatbot models test NAME` shows."""

from __future__ import annotations

import time
from contextlib import aclosing

import msgspec

from llmchatbot.errors import AppError
from llmchatbot.llm.events import DELTAS, Answering, Notice, TextDelta, Usage
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway
from llmchatbot.llm.port import PromptMessage

QUESTION = "Count from one to twenty in words, separated by commas. Write nothing else."


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. Times in seconds; `error` is "" when the answer was whole."""

    model: str
    upstream: str = ""
    first_token: float | None = None
    whole: float | None = None
    output_tokens: int = 0
    estimated: bool = False
    text: str = ""
    notices: tuple[str, ...] = ()
    error: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens after the first one, by the time they took; None when there were too few to tell."""
        if self.first_token is None or self.whole is None or self.output_tokens < 2:
            return None
        return (self.output_tokens - 1) / max(1e-6, self.whole - self.first_token)


async def try_model(gateway: ModelGateway, name: str, question: str = QUESTION) -> Trial:
    """Ask `name` (a public name, "" the default) once. Never raises for what a model or its provider does wrong."""
    trial = Trial(model=name or gateway.default_model())
    request = GatewayRequest(model=name, messages=(PromptMessage(role="user", content=question),))
    started = time.perf_counter()
    texts: list[str] = []
    notices: list[str] = []
    try:
        async with aclosing(gateway.stream(request)) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, DELTAS) and trial.first_token is None:
                        trial = msgspec.structs.replace(trial, first_token=time.perf_counter() - started)
                    if isinstance(event, TextDelta):
                        texts.append(event.text)
                    elif isinstance(event, Notice):
                        notices.append(event.text)
                    else:
                        trial = _with(trial, event)
    except AppError as error:
        trial = msgspec.structs.replace(trial, error=error.detail)
    whole = time.perf_counter() - started
    return msgspec.structs.replace(trial, whole=whole, text="".join(texts), notices=tuple(notices))


def _with(trial: Trial, event: object) -> Trial:
    if isinstance(event, Answering):
        return msgspec.structs.replace(trial, model=event.model, upstream=event.upstream)
    if isinstance(event, Usage):
        return msgspec.structs.replace(trial, output_tokens=event.output_tokens, estimated=event.estimated)
    return trial
