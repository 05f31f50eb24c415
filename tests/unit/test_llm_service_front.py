"""The service's front against an engine that fails on purpose: no broken answer looks like a whole one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from llmchatbot.llm_service import outputs, relay
from llmchatbot.llm_service.front import About, Front
from llmchatbot.llm_service.relay import EngineClient

NDJSON, CHAT = "/api/v1/generate/stream", "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return (
        b"data: " + msgspec.json.encode({"id": "c1", "model": "m", "created": 5, "choices": choices, **more}) + b"\n\n"
    )


def words(*texts: str) -> list[bytes]:
    return [chunk({"role": "assistant", "content": None}), *(chunk({"content": text}) for text in texts)]


TIMINGS = {"prompt_n": 3, "cache_n": 4, "predicted_n": 2}
END = [chunk({}, "stop", timings=TIMINGS), DONE]


class FakeEngine:
    """Sends what the test has laid out; a float is a pause in seconds, None cuts the connection."""

    def __init__(self) -> None:
        self.script: list[bytes | float | None] = []
        self.status, self.refusal = 200, b""
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if self.status != 200:
            return web.Response(status=self.status, body=self.refusal)
        response = web.StreamResponse()
        await response.prepare(request)
        for part in self.script:
            if isinstance(part, float):
                await asyncio.sleep(part)
            elif part is not None:
                await response.write(part)
            elif request.transport is not None:
                request.transport.close()
        return response

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if self.status == 200 else 503)


async def serve(application: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


class Caller:
    """Talks to the front."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self.url = http, url

    async def ndjson(self, **more: Any) -> tuple[int, list[dict[str, Any]]]:
        async with self.http.post(self.url + NDJSON, json={"prompt": "x", **more}) as response:
            return response.status, [msgspec.json.decode(line) for line in (await response.read()).splitlines()]

    async def stream(self) -> tuple[int, str]:
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        async with self.http.post(self.url + CHAT, json=body) as response:
            return response.status, await response.text()

    async def whole(self) -> tuple[int, Any]:
        body = {"messages": [{"role": "user", "content": "x"}]}
        async with self.http.post(self.url + CHAT, json=body) as response:
            return response.status, await response.json()


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    application = web.Application()
    application.router.add_post(CHAT, fake.complete)
    application.router.add_get("/health", fake.health)
    runner, fake.url = await serve(application)
    yield fake
    await runner.cleanup()


@pytest.fixture
async def caller(engine: FakeEngine) -> AsyncIterator[Caller]:
    client = EngineClient(engine.url, "engine-key", slots=1, waiting=1)
    about = About(name="m", device="cpu", slots=1, context=64)
    runner, url = await serve(Front(client, about, key="").application())
    async with aiohttp.ClientSession() as http:
        yield Caller(http, url)
    await runner.cleanup()
    await client.close()


async def test_only_an_explicit_end_of_the_engine_is_complete(engine: FakeEngine, caller: Caller) -> None:
    engine.script = [*words("Hi", " you"), *END]
    status, lines = await caller.ndjson()
    assert status == 200
    assert lines[-1] == {"type": "complete", "content": "Hi you", "tokens": 2, "input_tokens": 7}
    engine.script = [*words("Hi", " you"), *END[:-1], DONE]
    assert (await caller.stream())[1].endswith("data: [DONE]\n\n")
    assert (await caller.whole())[1]["choices"][0]["message"]["content"] == "Hi you"


BREAKS: dict[str, list[bytes | float | None]] = {
    "no end mark": [],
    "cut": [None],
    "engine error": [b'data: {"error":{"code":500,"message":"secret text","type":"server_error"}}\n\n'],
    "endless line": [b"data: " + b"x" * (2 << 20)],
}


@pytest.mark.parametrize("end", BREAKS.values(), ids=BREAKS.keys())
async def test_an_answer_that_breaks_off_says_so_in_every_protocol(
    engine: FakeEngine, caller: Caller, end: list[bytes | float | None]
) -> None:
    engine.script = [*words("Hi"), 0.05, *end]
    status, lines = await caller.ndjson()
    assert (status, [line["type"] for line in lines]) == (200, ["token", "error"])
    assert lines[-1]["content"] == "The model stopped before the end of its answer."
    status, text = await caller.stream()
    assert '"code":"interrupted"' in text
    assert "[DONE]" not in text
    assert "secret" not in text
    status, answer = await caller.whole()
    assert (status, answer["error"]["code"]) == (502, "interrupted")


@pytest.mark.parametrize(
    ("status", "refusal", "expected", "code"),
    [
        (400, b'{"error":{"type":"invalid_request_error","message":"secret text"}}', 400, "invalid_request"),
        (400, b"<html>", 400, "invalid_request"),
        (500, b'{"error":{"type":"server_error","message":"secret text"}}', 502, "engine_error"),
        (503, b'{"error":{"type":"unavailable_error"}}', 503, "unavailable"),
    ],
)
async def test_refusals_of_the_engine_become_ours_and_repeat_nothing(
    engine: FakeEngine, caller: Caller, status: int, refusal: bytes, expected: int, code: str
) -> None:
    engine.status, engine.refusal = status, refusal
    found, lines = await caller.ndjson()
    assert (found, lines[0]["code"]) == (expected, code)
    assert "secret" not in lines[0]["content"]


async def test_an_engine_that_is_gone_is_unavailable_and_not_healthy(engine: FakeEngine, caller: Caller) -> None:
    client = EngineClient("http://127.0.0.1:9", "k", slots=1, waiting=0)
    front = Front(client, About(name="m", device="cpu", slots=1, context=64), key="")
    runner, url = await serve(front.application())
    gone = Caller(caller.http, url)
    status, lines = await gone.ndjson()
    assert (status, lines[0]["code"]) == (503, "unavailable")
    async with gone.http.get(f"{url}/health") as response:
        assert response.status == 503
        assert await response.json() == {"status": "error", "model_loaded": False, "device": "cpu", "model": "m"}
    await runner.cleanup()
    await client.close()


async def test_signs_of_life_while_a_prompt_is_read_change_no_text(
    engine: FakeEngine, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "KEEP_ALIVE", 0.0)
    progress = chunk({"role": "assistant", "content": None}, prompt_progress={"total": 9, "processed": 4})
    engine.script = [progress, 0.02, progress, 0.02, *words("Hi"), *END]
    _, lines = await caller.ndjson()
    assert lines[0] == {"type": "token", "content": "", "tokens": 0}
    assert lines[-1]["content"] == "Hi"
    _, text = await caller.stream()
    assert text.startswith(": still working\n\n")
    assert "prompt_progress" not in text
    assert (await caller.whole())[0] == 200


async def test_signs_of_life_while_waiting_for_a_slot(
    engine: FakeEngine, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(outputs, "KEEP_ALIVE", 0.05)
    engine.script = [*words("Hi"), 0.3, *END]
    first, second = await asyncio.gather(caller.ndjson(), caller.ndjson())
    later = max(first[1], second[1], key=len)
    assert later[0]["content"] == ""
    assert later[-1]["content"] == "Hi"


async def test_thoughts_stay_out_of_the_text_and_ndjson_asks_for_none(engine: FakeEngine, caller: Caller) -> None:
    engine.script = [chunk({"reasoning_content": "Hm."}), *words("Hi"), *END]
    _, lines = await caller.ndjson()
    assert lines[-1]["content"] == "Hi"
    assert engine.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    _, answer = await caller.whole()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}


async def test_pieces_of_tool_calls_are_put_together(engine: FakeEngine, caller: Caller) -> None:
    pieces = [
        {"index": 0, "id": "t1", "type": "function", "function": {"name": "clock", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"zone":'}},
        {"index": 1, "id": "t2", "function": {"name": "dice", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": '"UTC"}'}},
    ]
    engine.script = [*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, "tool_calls"), DONE]
    _, answer = await caller.whole()
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "clock", "arguments": '{"zone":"UTC"}'},
        {"name": "dice", "arguments": "{}"},
    ]


async def test_a_caller_cannot_choose_a_slot_or_switch_off_what_finds_that_it_left(
    engine: FakeEngine, caller: Caller
) -> None:
    engine.script = [*words("Hi"), *END]
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "id_slot": 0,
        "return_progress": False,
        "model": "other",
        "temperature": 0.5,
    }
    async with caller.http.post(caller.url + CHAT, json=body) as response:
        assert response.status == 200
    (sent,) = engine.bodies
    assert "id_slot" not in sent
    assert "model" not in sent
    assert (sent["stream"], sent["return_progress"], sent["temperature"]) == (True, True, 0.5)


async def test_the_contract_takes_sampling_and_ignores_what_it_does_not_know(
    engine: FakeEngine, caller: Caller
) -> None:
    engine.script = [*words("Hi"), *END]
    history = [{"id": 1, "role": "assistant", "content": "Hello.", "is_incomplete": False}]
    await caller.ndjson(history=history, model="any", seed=7, stop=["\n"], colour="red")
    (sent,) = engine.bodies
    assert sent["messages"] == [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "x"}]
    assert (sent["seed"], sent["stop"]) == (7, ["\n"])
    assert "colour" not in sent


async def test_an_answer_that_takes_too_long_is_ended(
    engine: FakeEngine, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmchatbot.llm_service.front.ANSWER_TIME", 0.1)
    engine.script = [*words("Hi"), 30.0]
    _, lines = await caller.ndjson()
    assert lines[-1] == {"type": "error", "content": "The answer took too long.", "tokens": 0}


async def test_a_body_that_does_not_arrive_is_not_waited_for(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmchatbot.llm_service.front.BODY_TIME", 0.1)
    host, port = caller.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {NDJSON} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    writer.write(head.encode() + b"{")
    assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
