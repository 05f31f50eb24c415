"""`llmchatbot models`: what a person at a terminal is told, and the code that a script sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llmchatbot.__main__ import main
from llmchatbot.llm.script import Script
from llmchatbot.llm.scripted_server import ScriptedServer


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY", "LLM_SERVICE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_models_are_listed_and_nobody_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "guide" in listed
    assert "anthropic" in listed
    assert "a key" not in listed


def test_an_unknown_model_is_a_sentence_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "test", "gpt-0"]) == 1
    assert capsys.readouterr().out == "There is no model 'gpt-0'; known are: guide.\n"


def test_a_default_that_is_not_there_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_MODEL", "gpt-0")
    assert main(["models", "test"]) == 1
    assert "DEFAULT_MODEL: there is no model 'gpt-0'" in capsys.readouterr().err


async def test_a_model_that_answers_shows_its_times_and_a_wrong_key_its_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedServer(Script(tokens=20), key="right") as server:
        for name, value in (("URL", server.url), ("PROTOCOL", "openai"), ("MODEL", "m"), ("KEY", "right")):
            monkeypatch.setenv(f"LLM_SERVICE_{name}", value)
        assert await asyncio.to_thread(main, ["models", "test", "m"]) == 0
        assert "tokens/s" in capsys.readouterr().out
        monkeypatch.setenv("LLM_SERVICE_KEY", "wrong")
        assert await asyncio.to_thread(main, ["models", "test", "m"]) == 1
        said = capsys.readouterr().out
        assert "LLM_SERVICE_KEY" in said
        assert "wrong:" not in said
