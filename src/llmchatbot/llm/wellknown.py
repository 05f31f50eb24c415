"""The models that appear when a well-known key is set, without any file.

Names, windows and list prices (US dollars per million tokens) as of November 2026. A model missing here is one table
in the models file away; the first model of a key is the default one.
"""

from __future__ import annotations

from llmchatbot.llm.registry import Capability, ModelEntry

LOOPBACK_PORTS: dict[int, str] = {11434: "Ollama", 1234: "LM Studio", 8000: "vLLM", 8081: "llama.cpp", 1337: "Jan"}
"""Asked in this order, at the first call, when LLM_AUTODETECT is on."""

SERVICE_MODEL = ModelEntry(protocol="auto")
"""What is assumed of LLM_SERVICE_URL until a models file says more."""

_ALL: frozenset[Capability] = frozenset({"reasoning", "vision", "tools"})
_NO_SAMPLING = frozenset({"temperature", "top_p"})
"""Today's reasoning models refuse them."""


def _openai(input_price: float, output_price: float) -> ModelEntry:
    # The window is larger; beyond 272,000 tokens another, higher tariff begins.
    return ModelEntry(
        protocol="openai-responses",
        url="https://api.openai.com/v1",
        context_window=272_000,
        max_output_tokens=64_000,
        capabilities=_ALL,
        unsupported_parameters=_NO_SAMPLING,
        input_price=input_price,
        output_price=output_price,
    )


def _anthropic(input_price: float, output_price: float) -> ModelEntry:
    return ModelEntry(
        protocol="anthropic",
        url="https://api.anthropic.com/v1",
        context_window=1_000_000,
        max_output_tokens=64_000,
        capabilities=_ALL,
        unsupported_parameters=_NO_SAMPLING,
        input_price=input_price,
        output_price=output_price,
    )


def _gemini(input_price: float, output_price: float) -> ModelEntry:
    return ModelEntry(
        protocol="gemini",
        url="https://generativelanguage.googleapis.com/v1beta",
        context_window=1_048_576,
        max_output_tokens=65_536,
        capabilities=_ALL,
        input_price=input_price,
        output_price=output_price,
    )


def _openrouter(upstream: str, window: int, price: float | None) -> ModelEntry:
    return ModelEntry(
        protocol="openai",
        url="https://openrouter.ai/api/v1",
        upstream_name=upstream,
        context_window=window,
        max_output_tokens=16_384,
        capabilities=frozenset({"reasoning", "tools"}),
        input_price=price,
        output_price=price,
    )


WELL_KNOWN: dict[str, dict[str, ModelEntry]] = {
    "OPENAI_API_KEY": {
        "gpt-6-sol": _openai(2.0, 10.0),
        "gpt-6-luna": _openai(0.1, 0.5),
        "gpt-6-astra": _openai(10.0, 50.0),
    },
    "ANTHROPIC_API_KEY": {
        "claude-sonnet-5-5": _anthropic(2.0, 10.0),
        "claude-haiku-5-5": _anthropic(0.1, 0.5),
        "claude-opus-5-5": _anthropic(4.0, 20.0),
    },
    "GEMINI_API_KEY": {
        "gemini-3.8-flash": _gemini(0.75, 3.75),
        "gemini-3.5-flash-lite": _gemini(0.3, 2.5),
    },
    "OPENROUTER_API_KEY": {
        "openrouter-auto": _openrouter("openrouter/auto", 200_000, None),
        "openrouter-free": _openrouter("openrouter/free", 200_000, 0.0),
    },
}
