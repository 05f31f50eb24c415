"""Usage of a person: the provider's numbers, kept when the chat is gone, seen by nobody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from model_recordings import RawServer
from nodes import Person
from tests.e2e.conftest import StartNode

SHORT = "[[rate=0 tokens=20]]"


async def test_sums_follow_the_answers_and_outlive_the_chat(person: Person, stranger: Person) -> None:
    """I6; LiteLLM #30630: usage of a reader that left was lost."""
    chat = await person.chat()
    first = (await person.events(await person.start(chat, SHORT)))[-1]["usage"]
    second = (await person.events(await person.start(chat, SHORT)))[-1]["usage"]
    await person.request("DELETE", f"/api/v1/chats/{chat}/permanent")
    status, (row,) = await person.request("GET", "/api/v1/users/me/usage")
    assert status == 200
    assert (row["model"], row["answers"], row["cost"]) == ("scripted", 2, None)
    assert row["input_tokens"] == first["input_tokens"] + second["input_tokens"]
    assert row["output_tokens"] == first["output_tokens"] + second["output_tokens"]
    assert await stranger.request("GET", "/api/v1/users/me/usage") == (200, [])


async def test_stopped_answer_counts_as_estimated(person: Person) -> None:
    generation = await person.start(await person.chat(), "[[rate=50 tokens=500]]")
    await person.events(generation, until=8)
    await person.request("POST", f"/api/v1/generations/{generation}/stop")
    _, (row,) = await person.request("GET", "/api/v1/users/me/usage?group=model")
    assert (row["day"], row["estimated"]) == (None, True)
    assert row["output_tokens"] > 0


async def test_i6_answer_whose_chat_is_deleted_for_good_in_mid_stream_still_counts(person: Person) -> None:
    """LiteLLM #36008, bitrouter #537: whoever broke off paid nothing, which was a way around a quota."""
    chat = await person.chat()
    generation = await person.start(chat, "[[rate=50 tokens=500]]")
    await person.events(generation, until=8)
    await person.request("DELETE", f"/api/v1/chats/{chat}/permanent")
    _, (row,) = await person.request("GET", "/api/v1/users/me/usage?group=model")
    assert (row["answers"], row["estimated"]) == (1, True)
    assert row["input_tokens"] > 0
    assert row["output_tokens"] > 0


@pytest.mark.parametrize("query", ["from=2026-02-01&to=2026-01-01", "from=2020-01-01", "from=yesterday", "group=hour"])
async def test_span_and_group_that_cannot_be_are_400(person: Person, query: str) -> None:
    status, body = await person.request("GET", f"/api/v1/users/me/usage?{query}")
    assert status == 400, body
    assert body["errors"]


async def test_the_first_days_of_all_are_asked_for_without_a_fault(person: Person) -> None:
    """The thirty days before the fifth one overflowed, and that was a 500."""
    assert await person.request("GET", "/api/v1/users/me/usage?to=0001-01-05") == (200, [])


MODELS = """
default = "up"
[models.up]
protocol = "openai"
url = "{url}"
upstream_name = "x"
context_window = 100000
max_output_tokens = 10000
input_price = 1000000
output_price = 1000000
"""


async def test_answer_whose_provider_counts_absurdly_gets_its_end(start_node: StartNode, tmp_path: Path) -> None:
    """Found by a review: a count that its column does not hold was tried again for ever, and the chat stayed busy."""
    end = {"choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 2**32 - 1, "completion_tokens": 3}}
    async with RawServer() as provider:
        provider.answer(*(f"data: {json.dumps(event)}\n\n".encode() for event in (end, usage)), b"data: [DONE]\n\n")
        models = tmp_path / "models.toml"
        models.write_text(MODELS.format(url=provider.url))
        async with Person(await start_node(MODELS_FILE=str(models))) as person:
            chat = await person.chat()
            for question in ("hello", "again"):
                async with asyncio.timeout(20):
                    last = (await person.events(await person.start(chat, question, model="up")))[-1]
                assert (last["status"], last["content"]) == ("completed", "two")
                assert last["usage"] == {"input_tokens": 2**31 - 1, "output_tokens": 3, "estimated": True}
            _, (row,) = await person.request("GET", "/api/v1/users/me/usage?group=model")
            assert (row["answers"], row["input_tokens"], row["cost"]) == (2, 2 * (2**31 - 1), pytest.approx(2e6))
