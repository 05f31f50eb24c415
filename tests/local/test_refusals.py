"""What the service does not take, and how it says so. A real service, because half of this is the engine's verdict."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from local_service import CHAT, NDJSON, Service, StartService, environment

HELLO = [{"role": "user", "content": "Hello."}]
PICTURE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/canary.png"}}


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Basic YTpi", "Bearer a-key-for-testsX"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", NDJSON), ("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/x")]
)
async def test_without_the_right_key_everything_but_health_answers_401(
    reciter: Service, http: aiohttp.ClientSession, method: str, path: str, authorization: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with http.request(method, reciter.url + path, json={"prompt": "x"}, headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "key" in await response.text()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello."}, "messages"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "text only"),
        ({"messages": HELLO, "n": 2}, "'n' must be 1"),
        ({"messages": HELLO, "stream": "yes"}, "'stream'"),
        ({"messages": HELLO, "temperature": "hot"}, "parameters"),
        ([], "object"),
    ],
)
async def test_a_chat_request_that_is_not_valid_answers_400(
    reciter: Service, http: aiohttp.ClientSession, body: Any, words: str
) -> None:
    async with http.post(reciter.url + CHAT, json=body, headers=reciter.headers) as response:
        assert response.status == 400
        assert words in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "body", ['{"prompt":', '{"prompt":"\\ud800"}', "[" * 100_000, '{"prompt":5}', '{"prompt":""}', b"\xff"]
)
async def test_a_generate_request_that_is_not_valid_answers_400(
    reciter: Service, http: aiohttp.ClientSession, body: str | bytes
) -> None:
    headers = {**reciter.headers, "Content-Type": "application/json"}
    async with http.post(reciter.url + NDJSON, data=body, headers=headers) as response:
        assert response.status == 400
        answer = await response.json()
        assert answer["type"] == "error"
        assert answer["content"] == answer["error"]


async def test_a_conversation_beyond_the_context_names_both_numbers(
    reciter: Service, http: aiohttp.ClientSession
) -> None:
    prompt = "x" * 5000
    async with http.post(reciter.url + NDJSON, json={"prompt": prompt}, headers=reciter.headers) as response:
        assert response.status == 400
        answer = await response.json()
    assert answer["code"] == "context_length_exceeded"
    assert "5019 tokens" in answer["content"]
    assert "4096" in answer["content"]


async def test_limits_and_unknown_addresses_answer_in_json(reciter: Service, http: aiohttp.ClientSession) -> None:
    async with http.post(reciter.url + NDJSON, json={"prompt": "x" * 1_000_000}, headers=reciter.headers) as response:
        assert (response.status, (await response.json())["code"]) == (413, "body_too_large")
    async with http.post(reciter.url + CHAT, data="{}", headers=reciter.headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (415, "unsupported_media_type")
    async with http.get(reciter.url + "/nothing", headers=reciter.headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")
    async with http.get(reciter.url + CHAT, headers=reciter.headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (405, "method_not_allowed")


async def test_without_a_key_it_is_open_to_this_machine_and_to_no_web_page(
    start_service: StartService, models: Path, http: aiohttp.ClientSession
) -> None:
    service = await asyncio.to_thread(start_service, models / "reciter.gguf", key="")
    assert (await service.lines(http, max_tokens=1))[-1]["content"] == " aa"
    # DNS rebinding: the page's own name, pointed at this machine.
    async with http.get(f"{service.url}/v1/models", headers={"Host": "evil.example"}) as response:
        assert response.status == 403
    # What a page may send without asking first has another content type; and nothing allows it to read the answer.
    async with http.post(service.url + NDJSON, data='{"prompt":"x"}', headers={"Origin": "http://a"}) as response:
        assert response.status == 415
        assert "Access-Control-Allow-Origin" not in response.headers


def started(*arguments: str, key: str = "") -> tuple[int, str]:
    """Exit code and stderr of a service that cannot start."""
    command = [sys.executable, "-m", "llmchatbot.llm_service", *arguments]
    done = subprocess.run(
        command, env=environment(LLM_SERVICE_KEY=key), capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_missing_model_says_how_to_get_one(tmp_path: Path) -> None:
    code, words = started("--model", str(tmp_path / "none.gguf"))
    assert code == 2
    assert "There is no model file" in words
    assert "llmchatbot models pull" in words


def test_a_cut_off_model_names_both_sizes(tmp_path: Path, models: Path) -> None:
    whole = (models / "reciter.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:3_000_000])
    code, words = started("--model", str(tmp_path / "cut.gguf"))
    assert code == 2
    assert f"3,000,000 bytes of {len(whole):,}" in words


def test_a_model_that_only_the_engine_can_refuse_is_a_sentence_too(tmp_path: Path, models: Path) -> None:
    other = (models / "reciter.gguf").read_bytes().replace(b"llama", b"lemma")
    (tmp_path / "other.gguf").write_bytes(other)
    code, words = started("--model", str(tmp_path / "other.gguf"))
    assert code == 2
    assert "llama.cpp could not load" in words
    assert "'lemma'" in words


def test_a_model_too_large_for_the_memory_says_both_numbers_and_what_to_lower(models: Path) -> None:
    code, words = started("--model", str(models / "slow.gguf"), "--slots", "256", "--context", "32768")
    assert code == 2
    assert "needs about 1" in words
    assert "are free" in words
    assert "lower --slots or --context" in words


def test_other_machines_are_let_in_only_with_a_key(models: Path) -> None:
    code, words = started("--model", str(models / "reciter.gguf"), "--host", "0.0.0.0")
    assert code == 2
    assert "LLM_SERVICE_KEY" in words


def test_a_port_that_is_taken_is_found_before_the_model_is_loaded(models: Path, reciter: Service) -> None:
    port = reciter.url.rpartition(":")[2]
    code, words = started("--model", str(models / "reciter.gguf"), "--port", port)
    assert code == 2
    assert f"127.0.0.1:{port}" in words
    assert "--port" in words
