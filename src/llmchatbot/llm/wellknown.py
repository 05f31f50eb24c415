"""The models that appear when a well-known key is set, without any file. Names and prices as of November 2026."""

from __future__ import annotations

from llmchatbot.llm.registry import ModelEntry

LOOPBACK_URL = "http://127.0.0.1"
"""Stands for the usual loopback ports until the first call finds out which of them answers."""

LOOPBACK_PORTS: dict[int, str] = {11434: "Ollama", 1234: "LM Studio", 8000: "vLLM", 8081: "llama.cpp", 1337: "Jan"}

SERVICE_MODEL = ModelEntry(protocol="auto", url=LOOPBACK_URL)
"""What is assumed of LLM_SERVICE_URL until a models file says more: a window every present model has."""

WELL_KNOWN: dict[str, dict[str, ModelEntry]] = {}
