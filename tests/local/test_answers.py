"""A real model answers in both protocols. Its text is known, so nothing may be missing, doubled or added."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from local_service import CHAT, Service
from tiny_model import RECITATION


def text_of(lines: list[dict[str, Any]]) -> str:
    return "".join(line["content"] for line in lines if line["type"] == "token")


def delta_text(events: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


async def test_ndjson_gives_every_token_and_then_the_whole_text(reciter: Service, http: aiohttp.ClientSession) -> None:
    *tokens, last = await reciter.lines(http)
    assert {line["type"] for line in tokens} == {"token"}
    assert text_of(tokens) == RECITATION
    assert last == {"type": "complete", "content": RECITATION, "tokens": 683, "input_tokens": last["input_tokens"]}
    assert last["input_tokens"] > 0


async def test_openai_stream_gives_the_same_text_and_says_why_it_ended(
    reciter: Service, http: aiohttp.ClientSession
) -> None:
    events = await reciter.events(http, stream_options={"include_usage": True})
    assert delta_text(events) == RECITATION
    assert [choice["finish_reason"] for event in events for choice in event["choices"]][-1] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 683
    assert not any("prompt_progress" in event for event in events)


async def test_openai_object_is_put_together_from_the_same_stream(
    reciter: Service, http: aiohttp.ClientSession
) -> None:
    body = {"messages": [{"role": "user", "content": "Begin."}], "max_completion_tokens": 20}
    async with http.post(reciter.url + CHAT, json=body, headers=reciter.headers) as response:
        answer = await response.json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": RECITATION[:60]}
    assert answer["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("length", [0, 3, 301, 304, 602, 1001])
async def test_an_answer_goes_on_from_the_text_that_is_already_shown(
    reciter: Service, http: aiohttp.ClientSession, length: int
) -> None:
    prefix = RECITATION[:length]
    messages = [{"role": "user", "content": "Begin."}, {"role": "assistant", "content": prefix}]
    events = await reciter.events(http, messages=messages[: 2 if prefix else 1])
    assert prefix + delta_text(events) == RECITATION
    lines = await reciter.lines(http, prompt="" if prefix else "Begin.", history=messages[: 2 if prefix else 0])
    assert prefix + text_of(lines) == RECITATION


async def test_fault_4_a_message_in_prompt_and_history_is_read_once(
    reciter: Service, http: aiohttp.ClientSession
) -> None:
    message = {"id": "1", "role": "user", "content": "Begin.", "tokens": 3}
    once = await reciter.lines(http, max_tokens=1)
    twice = await reciter.lines(http, history=[message], max_tokens=1)
    assert twice[-1]["input_tokens"] == once[-1]["input_tokens"]


async def test_sixteen_users_on_four_slots_are_all_served(reciter: Service, http: aiohttp.ClientSession) -> None:
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, await reciter.busy(http))
            await asyncio.sleep(0.02)

    watcher = asyncio.create_task(watch())
    answers = await asyncio.gather(
        *(reciter.lines(http, f"User {user} asks.", max_tokens=150) for user in range(8)),
        *(reciter.events(http, f"User {user} asks.", max_tokens=150) for user in range(8, 16)),
    )
    watcher.cancel()
    texts = [text_of(answer) for answer in answers[:8]] + [delta_text(answer) for answer in answers[8:]]
    assert texts == [RECITATION[:445]] * 16
    assert most == 4


async def test_metrics_count_answers_and_tokens_but_no_text(reciter: Service, http: aiohttp.ClientSession) -> None:
    before = await reciter.metric(http, 'llm_service_tokens_total{direction="output"}')
    await reciter.lines(http, "a canary in the prompt", max_tokens=7)
    assert await reciter.metric(http, 'llm_service_tokens_total{direction="output"}') == before + 7
    assert await reciter.metric(http, 'llm_service_requests_total{outcome="complete",protocol="ndjson"}') >= 1
    assert await reciter.metric(http, "llm_service_slots ") == 4
    async with http.get(f"{reciter.url}/metrics", headers=reciter.headers) as response:
        assert "canary" not in await response.text()
    async with http.get(f"{reciter.url}/health") as response:
        assert await response.json() == {"status": "ok", "model_loaded": True, "device": "cpu", "model": "reciter"}
    async with http.get(f"{reciter.url}/v1/models", headers=reciter.headers) as response:
        (model,) = (await response.json())["data"]
    assert (model["id"], model["context_length"]) == ("reciter", 4096)
