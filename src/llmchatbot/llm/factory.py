"""Builds the model of a registry entry: the one place that knows all protocols."""

from __future__ import annotations

from llmchatbot.llm import guide, ndjson, openai_chat, scripted
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.guide import GuideModel
from llmchatbot.llm.ndjson import NdjsonModel
from llmchatbot.llm.openai_chat import OpenAiChatModel
from llmchatbot.llm.port import Model
from llmchatbot.llm.registry import RegisteredModel
from llmchatbot.llm.script import Script, parse
from llmchatbot.llm.scripted import ScriptedModel
from llmchatbot.llm.transport import HttpTransport

SUPPORTED: dict[str, frozenset[str]] = {
    "auto": frozenset(),
    "ndjson": ndjson.SUPPORTED,
    "openai": openai_chat.SUPPORTED,
    "guide": guide.SUPPORTED,
    "scripted": scripted.SUPPORTED,
}


def build_model(registered: RegisteredModel, transport: HttpTransport) -> Model:
    """The model of one entry. Opens nothing."""
    entry, endpoint = registered.entry, registered.endpoint
    if entry.protocol == "guide":
        return GuideModel()
    if entry.protocol == "scripted" or endpoint is None:
        return ScriptedModel(parse(entry.script, Script(rate=50)))
    return _over_http(registered, endpoint, transport)


def _over_http(registered: RegisteredModel, endpoint: Endpoint, transport: HttpTransport) -> Model:
    entry = registered.entry
    if entry.protocol == "openai":
        return OpenAiChatModel(
            transport,
            endpoint,
            max_tokens_field=entry.max_tokens_field,
            prefix_style=entry.prefix_style,
            extra_body=dict(entry.extra_body),
        )
    return NdjsonModel(transport, endpoint)
