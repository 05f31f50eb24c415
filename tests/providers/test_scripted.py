"""The scripted model and its server: tests and drills trust them, so they are tested themselves."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

import aiohttp
import msgspec
import pytest
from model_recordings import ask

from llmchatbot.errors import ModelRefused
from llmchatbot.llm.endpoint import Endpoint, TimeLimits
from llmchatbot.llm.events import Finished
from llmchatbot.llm.ndjson import NdjsonModel
from llmchatbot.llm.openai_chat import OpenAiChatModel
from llmchatbot.llm.port import Model, Parameters, Prompt, PromptMessage
from llmchatbot.llm.script import Script, parse
from llmchatbot.llm.scripted import ScriptedModel
from llmchatbot.llm.scripted_answer import CANARY
from llmchatbot.llm.scripted_server import ScriptedServer
from llmchatbot.llm.transport import HttpTransport

PATIENT = TimeLimits(connect=10, first_byte=20, chunk=20, whole=60)


def prompt(text: str, **changes: object) -> Prompt:
    return msgspec.structs.replace(
        Prompt(model="scripted", messages=(PromptMessage(role="user", content=text),)), **changes
    )


def local(server: ScriptedServer, transport: HttpTransport, limits: TimeLimits = PATIENT) -> Model:
    del server, transport
    return ScriptedModel(Script(), limits=limits)


def ndjson(server: ScriptedServer, transport: HttpTransport, limits: TimeLimits = PATIENT) -> Model:
    return NdjsonModel(transport, Endpoint(url=server.url, limits=limits))


def openai(server: ScriptedServer, transport: HttpTransport, limits: TimeLimits = PATIENT) -> Model:
    return OpenAiChatModel(transport, Endpoint(url=f"{server.url}/v1", limits=limits))


WAYS = pytest.mark.parametrize("way", [local, ndjson, openai])
Way = Callable[..., Model]


def test_the_text_is_a_function_of_the_script() -> None:
    script = Script(tokens=40)
    assert script.pieces() == Script(tokens=40).pieces()
    assert script.pieces()[:2] == ["w0 ", "w1 "]
    assert not "".join(script.pieces()).isascii()
    assert script.pieces() != Script(tokens=40, seed=3).pieces()
    assert "".join(Script(text="one two  three").pieces()) == "one two  three"


def test_every_prefix_goes_on_to_the_same_text() -> None:
    script = Script(tokens=30, seed=2)
    whole = "".join(script.pieces())
    for cut in range(len(whole) + 1):
        assert whole[:cut] + "".join(script.remaining(whole[:cut])) == whole


def test_the_language() -> None:
    script = parse("rate=50 tokens=100 fault=cut@20 seed=7 first=0.2 stamp=1 usage=0 fails=2 text='a b'", Script())
    assert script == Script(
        rate=50, tokens=100, fault="cut", fault_at=20, seed=7, first=0.2, stamp=True, usage=False, fails=2, text="a b"
    )
    assert parse("fault=status:503", Script()).fault == "status:503"
    for wrong in ("fault=nonsense", "rate=x", "colour=red", "text='open", "tokens"):
        with pytest.raises(ModelRefused):
            parse(wrong, Script())


OUTCOMES = [
    ("refuse", "", "model_unavailable"),
    ("html", "", "model_protocol_error"),
    ("status:401", "", "model_misconfigured"),
    ("status:429", "", "model_overloaded"),
    ("stall", "", "model_timeout"),
    ("cut@3", "w0 w1 w2é ", "model_interrupted"),
    ("stall@3", "w0 w1 w2é ", "model_timeout"),
    ("garbage@3", "w0 w1 w2é ", "model_protocol_error"),
    ("error@3", "w0 w1 w2é ", "model_unavailable"),
    ("hugeline@3", "w0 w1 w2é ", "model_protocol_error"),
    ("noend", "w0 w1 w2é w3 ", "model_interrupted"),
    ("utf8split", "w0 w1 w2é w3 ", ""),
]


@WAYS
@pytest.mark.parametrize(("fault", "text", "code"), OUTCOMES, ids=[outcome[0] for outcome in OUTCOMES])
async def test_a_fault_has_the_same_end_in_process_and_over_both_protocols(
    way: Way, fault: str, text: str, code: str, transport: HttpTransport
) -> None:
    short = {"stall": "first_byte", "stall@3": "chunk"}.get(fault)
    limits = msgspec.structs.replace(PATIENT, **{short: 0.3}) if short else PATIENT
    async with ScriptedServer(Script()) as server:
        answer = await ask(way(server, transport, limits), prompt(f"[[tokens=4 fault={fault}]]"))
    assert answer.text == text
    assert (answer.error.code if answer.error else "") == code
    assert answer.finished == (not code)
    assert CANARY not in str(answer.error)


@pytest.mark.parametrize("way", [local, openai])
async def test_parameters_prefix_and_reasoning(way: Way, transport: HttpTransport) -> None:
    async with ScriptedServer(Script()) as server:
        model = way(server, transport)
        short = await ask(model, prompt("[[tokens=4]]", parameters=Parameters(max_tokens=2)))
        assert (short.text, short.events[-1]) == ("w0 w1 ", Finished("length"))
        rest = await ask(model, prompt("[[tokens=4]]", prefix="w0 w"))
        assert rest.text == "1 w2é w3 "
        thinking = await ask(model, prompt("[[tokens=1 reasoning=2]]"))
        assert thinking.reasoning == "r0 r1 "


async def test_a_call_may_fail_so_many_times_and_then_work(transport: HttpTransport) -> None:
    async with ScriptedServer(Script()) as server:
        model = openai(server, transport)
        codes = [(await ask(model, prompt("[[tokens=1 fails=2]]"))).error for _ in range(3)]
    assert [error.code if error else "" for error in codes] == ["model_unavailable", "model_unavailable", ""]


async def test_the_rate_is_kept_on_the_wire(transport: HttpTransport) -> None:
    async with ScriptedServer(Script()) as server:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await ask(ndjson(server, transport), prompt("[[tokens=20 rate=100 first=0.05]]"))
        assert loop.time() - started >= 0.2


async def test_the_server_counts_and_wants_its_key(transport: HttpTransport) -> None:
    async with ScriptedServer(Script(tokens=3), key="k") as server:
        answer = await ask(ndjson(server, transport), prompt("hi"))
        assert answer.error is not None
        assert answer.error.code == "model_misconfigured"
        await transport.aclose()
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/__stats") as response:
            stats = await response.json()
    assert stats["requests"] == 2
    assert stats["open_connections"] == 1


async def test_it_runs_as_a_process_of_its_own() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "llmchatbot.llm.scripted_server",
        "--script",
        "tokens=2 rate=0",
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        body = {"prompt": "hi", "history": [], "model": ""}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/api/v1/generate/stream", json=body) as response,
        ):
            lines = [json.loads(line) async for line in response.content]
    finally:
        process.terminate()
        await process.wait()
    assert [line["type"] for line in lines] == ["token", "token", "complete"]
    assert lines[-1]["content"] == "w0 w1 "
