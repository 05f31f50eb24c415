"""Our two documented clients, and those that others use, through connections that are cut."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx_sse
import pytest
from cutting import Answer, Bench
from nodes import Node, Person
from playwright.async_api import async_playwright

from llmchatbot.drill.arena import text_of
from llmchatbot.drill.proxy import Fault, FaultProxy

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "docs" / "clients"
_HEAD = 450
CHROMIUM = "/usr/bin/chromium"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
needs_chromium = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed")
cuts = pytest.mark.parametrize("cuts", [20, pytest.param(200, marks=pytest.mark.nightly)])


def python_client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documented_client", CLIENTS / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def read_in_python(base: str, token: str, generation: str) -> Answer:
    client = python_client().ChatClient(base, token)

    def read() -> Answer:
        seen = Answer()
        for text, event in client.follow(generation):
            seen.update(text=text, end=event)
        return seen

    return await asyncio.to_thread(read)


async def run_node(kind: str, base: str, token: str, generation: str) -> Answer:
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        str(Path(__file__).with_name("run_client.mjs")),
        kind,
        base,
        token,
        generation,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return Answer(json.loads(output))


async def read_in_javascript(base: str, token: str, generation: str) -> Answer:
    return await run_node("ours", base, token, generation)


async def read_with_eventsource(base: str, token: str, generation: str) -> Answer:
    return await run_node("eventsource", base, token, generation)


async def read_with_httpx_sse(base: str, token: str, generation: str) -> Answer:
    """As its documentation says: the library decodes, whoever uses it resumes."""
    text, last, pause = "", "", 0.1
    path = f"{base}/api/v1/generations/{generation}/stream"
    async with httpx.AsyncClient(timeout=20) as client:
        while True:
            headers = {"Authorization": f"Bearer {token}", **({"Last-Event-ID": last} if last else {})}
            try:
                async with httpx_sse.aconnect_sse(client, "GET", path, headers=headers) as source:
                    async for sse in source.aiter_sse():
                        event: dict[str, Any] = sse.json()
                        last, pause = sse.id or last, sse.retry / 1000 if sse.retry else pause
                        if event["type"] == "token":
                            text += event["content"]
                        elif event["type"] == "complete":
                            return Answer(text=text, end=event)
            except (httpx.TransportError, httpx_sse.SSEError):
                await asyncio.sleep(pause)


@cuts
async def test_documented_python_client_loses_and_doubles_nothing(bench: Bench, cuts: int) -> None:
    await bench.read_through_cuts(read_in_python, cuts)


@cuts
@needs_node
async def test_documented_javascript_client_loses_and_doubles_nothing(bench: Bench, cuts: int) -> None:
    await bench.read_through_cuts(read_in_javascript, cuts)


@cuts
@needs_node
async def test_npm_eventsource_loses_and_doubles_nothing(bench: Bench, cuts: int) -> None:
    await bench.read_through_cuts(read_with_eventsource, cuts)


@cuts
async def test_httpx_sse_loses_and_doubles_nothing(bench: Bench, cuts: int) -> None:
    await bench.read_through_cuts(read_with_httpx_sse, cuts)


_IN_THE_PAGE = """(url) => new Promise((resolve, reject) => {
  let text = "";
  const source = new EventSource(url);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.type === "token") text += event.content;
    if (event.type === "reset") text = event.content;
    if (event.type === "complete") { source.close(); resolve({ text, end: event }); }
  };
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) reject(new Error("closed for good")); };
})"""


@cuts
@needs_chromium
@pytest.mark.browser
async def test_chromiums_eventsource_loses_and_doubles_nothing(bench: Bench, cuts: int) -> None:
    """With a ticket, as it cannot send a bearer header.

    Chromium takes half a head for a whole one, misses the content type and gives up, so heads are spared.
    """
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = await browser.new_page()

            async def read(base: str, token: str, generation: str) -> Answer:
                status, ticket = await bench.person.request("POST", f"/api/v1/generations/{generation}/ticket")
                assert status == 201
                await page.goto(f"{base}/")
                return Answer(await asyncio.wait_for(page.evaluate(_IN_THE_PAGE, ticket["stream_url"]), 60))

            await bench.read_through_cuts(read, cuts, spare=_HEAD)
        finally:
            await browser.close()


async def test_python_client_sends_one_message_however_often_it_must_try(node: Node, person: Person) -> None:
    chat = await person.chat()
    lost = iter([0, 40, 350])

    def fault(head: bytes) -> Fault:
        """The server has done it, and its answer breaks off: three times."""
        after = next(lost, None) if head.startswith(b"POST") else None
        return Fault() if after is None else Fault("reset", "anywhere", after)

    async with FaultProxy([("127.0.0.1", node.port)], policy=fault) as proxy:
        client = python_client().ChatClient(proxy.url, person.token)
        script = "rate=0 tokens=20"
        generation = await asyncio.to_thread(client.send, chat, f"[[{script}]]", model="scripted")
        assert proxy.cuts == 3
    assert [message["role"] for message in await person.messages(chat)] == ["user", "assistant"]
    seen = await read_in_python(node.base, person.token, generation)
    assert seen["text"] == text_of(script)


async def test_python_client_stops_and_gets_the_receipt(node: Node, person: Person) -> None:
    client = python_client().ChatClient(node.base, person.token)
    chat = await person.chat()

    def use() -> tuple[str, dict[str, Any], dict[str, Any]]:
        generation = client.send(chat, "[[rate=50 tokens=1000]]", model="scripted")
        receipt: dict[str, Any] = {}
        seen: list[tuple[str, dict[str, Any]]] = []
        for text, event in client.follow(generation):
            seen.append((text, event))
            if len(text) > 20 and not receipt:
                receipt = client.stop(generation)
        return *seen[-1], receipt

    text, end, receipt = await asyncio.to_thread(use)
    assert end["status"] == receipt["status"] == "stopped"
    assert len(text) == receipt["characters"]


_STOPS = """
import { ChatClient } from "%s";
const [base, token, chat] = process.argv.slice(1);
const client = new ChatClient(base, token);
const generation = await client.send(chat, "[[rate=50 tokens=1000]]", { model: "scripted" });
let seen, receipt;
for await (seen of client.follow(generation)) if (seen.text.length > 20) receipt ??= await client.stop(generation);
const refused = await client.request("GET", "/api/v1/chats/nonsense").catch((error) => error.response.status);
console.log(JSON.stringify({ text: seen.text, end: seen.event, receipt, refused }));
"""


@needs_node
async def test_javascript_client_stops_and_gets_the_receipt(node: Node, person: Person) -> None:
    chat = await person.chat()
    program = _STOPS % (CLIENTS / "client.js").as_uri()
    process = await asyncio.create_subprocess_exec(
        str(NODE), "--input-type=module", "-e", program, node.base, person.token, chat, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    seen = json.loads(output)
    assert seen["end"]["status"] == seen["receipt"]["status"] == "stopped"
    assert len(seen["text"]) == seen["receipt"]["characters"]
    assert seen["refused"] == 404


def test_javascript_client_has_sixty_lines_at_the_most() -> None:
    assert len((CLIENTS / "client.js").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("name", ["client.js", "client.py"])
def test_page_shows_the_clients_that_are_tested(name: str) -> None:
    page = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    assert (CLIENTS / name).read_text(encoding="utf-8").strip() in page
