"""The guide: honest about what it is, right about where to look, the same every time."""

from __future__ import annotations

import asyncio
import re

import pytest
from model_recordings import ask

from llmchatbot.llm.events import Finished, Usage
from llmchatbot.llm.guide import GuideModel, read_page
from llmchatbot.llm.port import Prompt, PromptMessage

QUESTIONS = [
    ("What can you do?", "What this is and what it can do"),
    ("How do I start it?", "Quick start: install and run"),
    ("show me an example with curl", "First conversation with curl"),
    ("Where do I put my OpenAI API key?", "Connecting a model with an API key"),
    ("connect to ollama", "Connecting a model by its address (URL)"),
    ("Can I run a local GGUF model?", "Running a local model from a file (GGUF)"),
    ("my connection was lost, how do I resume the stream?", "Resuming after a lost connection"),
    ("how to stop an answer", "Stopping an answer"),
    ("what are the limits?", "Limits: how much and how long"),
    ("refresh token", "Accounts, logging in and tokens"),
    ("try it as a guest", "Guests: trying without an account"),
    ("the port is already in use", "Troubleshooting: the port is taken"),
    ("wrong database password", "Troubleshooting: the database"),
    ("docker compose", "Docker and deployment"),
    ("the model does not answer", "Troubleshooting: the model does not answer"),
    ("fallback when one model fails", "Several models and fallbacks: the models file"),
    ("Как подключить модель по ключу?", "Как подключить модель по ключу API"),
    ("как остановить ответ", "Как остановить ответ"),
    ("Что ты умеешь?", "Что это и что оно умеет"),
    ("локальная модель gguf", "Локальная модель из файла (GGUF)"),
    ("порт занят", "Неполадки: порт занят"),
    ("неверный пароль базы данных", "Неполадки: база данных"),
]


def prompt(question: str, prefix: str = "") -> Prompt:
    return Prompt(model="guide", messages=(PromptMessage(role="user", content=question),), prefix=prefix)


@pytest.mark.parametrize(("question", "title"), QUESTIONS)
def test_a_question_finds_its_passage(question: str, title: str) -> None:
    titles = re.findall(r"^\*\*(.+)\*\*$", GuideModel().answer(question), flags=re.MULTILINE)
    assert title in titles


async def test_the_first_line_says_that_it_is_no_language_model_and_how_to_connect_one() -> None:
    answer = await ask(GuideModel(rate=0), prompt("hello"))
    first = answer.text.splitlines()[0]
    assert "not a language model" in first
    for setting in ("OPENAI_API_KEY", "LLM_SERVICE_URL", "LOCAL_MODEL"):
        assert setting in first
    russian = (await ask(GuideModel(rate=0), prompt("привет"))).text.splitlines()[0]
    assert "а не языковая модель" in russian


async def test_it_answers_the_same_in_small_pieces_and_ends_explicitly() -> None:
    one, two = [await ask(GuideModel(rate=0), prompt("How do I stop an answer?")) for _ in range(2)]
    assert one.events == two.events
    assert isinstance(one.events[-2], Usage)
    assert one.events[-1] == Finished("stop")
    assert len(one.events) > 50


async def test_the_pace_is_kept() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer = await ask(GuideModel(rate=500), prompt("port"))
    pieces = len(answer.events) - 2
    assert loop.time() - started >= (pieces - 1) / 500


async def test_nothing_found_lists_what_there_is() -> None:
    answer = await ask(GuideModel(rate=0), prompt("zxqv"))
    assert "Quick start" in answer.text
    assert "Stopping an answer" in answer.text


async def test_it_goes_on_from_a_prefix() -> None:
    whole = (await ask(GuideModel(rate=0), prompt("port"))).text
    rest = await ask(GuideModel(rate=0), prompt("port", whole[:300]))
    assert whole[:300] + rest.text == whole


async def test_leaving_ends_it() -> None:
    batches = GuideModel(rate=1).stream(prompt("port"))
    await anext(batches)
    await batches.aclose()


def test_both_languages_have_the_same_passages() -> None:
    english, russian = read_page("en"), read_page("ru")
    assert len(english.passages) == len(russian.passages)
    for left, right in zip(english.passages, russian.passages, strict=True):
        for code in (r"[A-Z]{3,}_[A-Z_]+", r"/api/v1[\w/{}?=&-]*"):
            assert sorted(re.findall(code, left.body)) == sorted(re.findall(code, right.body)), left.title
