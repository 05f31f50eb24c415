"""`LLM_AUTODETECT`: a server on one of the usual loopback ports, asked for at the first message and remembered."""

from __future__ import annotations

import socket

import pytest

from llmchatbot.config import ModelSettings
from llmchatbot.llm import factory
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.llm.script import Script
from llmchatbot.llm.scripted_server import ScriptedServer
from llmchatbot.llm.trial import try_model


def nobody() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_the_first_server_that_answers_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(Script(tokens=4)) as server:
        port = int(server.url.rpartition(":")[2])
        monkeypatch.setattr(factory, "LOOPBACK_PORTS", {nobody(): "a", port: "b", nobody(): "c"})
        gateway = ModelGateway.from_settings(ModelSettings(autodetect=True))
        assert server.stats.requests == 0, "nobody is asked before the first message"
        for _ in range(2):
            trial = await try_model(gateway, "")
            assert (trial.error, trial.output_tokens) == ("", 4)
        await gateway.aclose()
        # One question what it speaks, two answers.
        assert server.stats.requests == 3


async def test_where_nobody_is_the_error_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "LOOPBACK_PORTS", {nobody(): "a", nobody(): "b"})
    gateway = ModelGateway.from_settings(ModelSettings(autodetect=True))
    assert "LLM_AUTODETECT" in (await try_model(gateway, "")).error
    await gateway.aclose()
