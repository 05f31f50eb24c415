"""Builds the model of a registry entry: the one place that knows all protocols."""

from __future__ import annotations

import msgspec

from llmchatbot.llm import anthropic, gemini, guide, ndjson, openai_chat, openai_responses, scripted
from llmchatbot.llm.anthropic import AnthropicModel
from llmchatbot.llm.detect import DetectedModel, with_version
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.gemini import GeminiModel
from llmchatbot.llm.guide import GuideModel
from llmchatbot.llm.ndjson import NdjsonModel
from llmchatbot.llm.openai_chat import OpenAiChatModel
from llmchatbot.llm.openai_responses import OpenAiResponsesModel
from llmchatbot.llm.port import Model
from llmchatbot.llm.registry import RegisteredModel
from llmchatbot.llm.script import Script, parse
from llmchatbot.llm.scripted import ScriptedModel
from llmchatbot.llm.transport import HttpTransport
from llmchatbot.llm.wellknown import LOOPBACK_PORTS

SUPPORTED: dict[str, frozenset[str]] = {
    # What is found out later takes what OpenAI's protocol takes; the NDJSON contract leaves the rest unread.
    "auto": openai_chat.SUPPORTED,
    "ndjson": ndjson.SUPPORTED,
    "openai": openai_chat.SUPPORTED,
    "openai-responses": openai_responses.SUPPORTED,
    "anthropic": anthropic.SUPPORTED,
    "gemini": gemini.SUPPORTED,
    "guide": guide.SUPPORTED,
    "scripted": scripted.SUPPORTED,
}

_SCRIPTED_RATE = 50.0
_PROBE_SECONDS = 0.15


def build_model(registered: RegisteredModel, transport: HttpTransport) -> Model:
    """The model of one entry. Opens nothing."""
    entry, endpoint = registered.entry, registered.endpoint
    if entry.protocol == "guide":
        return GuideModel()
    if entry.protocol == "scripted" or endpoint is None:
        return ScriptedModel(parse(entry.script, Script(rate=_SCRIPTED_RATE)))
    return _over_http(registered, endpoint, transport)


def _over_http(registered: RegisteredModel, endpoint: Endpoint, transport: HttpTransport) -> Model:
    entry = registered.entry
    extra_body = dict(entry.extra_body)
    if entry.protocol == "ndjson":
        return NdjsonModel(transport, endpoint)
    if entry.protocol == "openai-responses":
        return OpenAiResponsesModel(transport, endpoint, extra_body=extra_body)
    if entry.protocol == "anthropic":
        return AnthropicModel(transport, endpoint, max_tokens=entry.max_output_tokens, extra_body=extra_body)
    if entry.protocol == "gemini":
        thoughts = "reasoning" in entry.capabilities
        return GeminiModel(transport, endpoint, thoughts=thoughts, extra_body=extra_body)
    if entry.protocol == "openai" and registered.upstream_name:
        return OpenAiChatModel(
            transport,
            msgspec.structs.replace(endpoint, url=with_version(endpoint.url)),
            max_tokens_field=entry.max_tokens_field,
            prefix_style=entry.prefix_style,
            extra_body=extra_body,
        )
    return DetectedModel(
        transport,
        _candidates(endpoint),
        name=registered.upstream_name,
        protocol=entry.protocol,
        max_tokens_field=entry.max_tokens_field,
        prefix_style=entry.prefix_style,
        extra_body=extra_body,
    )


def _candidates(endpoint: Endpoint) -> list[Endpoint]:
    """The endpoint itself, or the usual loopback ports where LLM_AUTODETECT stands for an address."""
    if endpoint.url_setting != "LLM_AUTODETECT":
        return [endpoint]
    limits = msgspec.structs.replace(endpoint.limits, connect=_PROBE_SECONDS)
    return [msgspec.structs.replace(endpoint, url=f"http://127.0.0.1:{port}", limits=limits) for port in LOOPBACK_PORTS]
