"""Several nodes behind nginx and HAProxy, with the configurations of `deploy/` and without sticky sessions.

Events one by one, heartbeats against the proxy's timeouts, a rolling restart under live streams, and logs that hold
nothing of what people write.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import pytest
from nodes import Node, database_environment, read_events
from proxies import DEPLOY, Proxy, why_not
from tests.conftest import PostgresServer, run_apart

from llmchatbot import config
from llmchatbot.llm.script import Script

KINDS = ("nginx", "haproxy")
SETTINGS = {
    "LEASE": "2s",
    "LEASE_RENEWAL": "500ms",
    "STREAM_HEARTBEAT": "1s",
    "SERVER_DRAIN_TIMEOUT": "1s",
    "TRUSTED_PROXIES": "127.0.0.1",
}
PASSING = (aiohttp.ClientError, OSError, TimeoutError)
# A heartbeat is sent by a ticker of a second, so with one a second two may pass.
SHORT_TIMEOUT = 4


@pytest.fixture(scope="module")
def pair(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    address = run_apart(postgres.create())
    folder = tmp_path_factory.mktemp("fleet")
    environment = {**database_environment(address), **SETTINGS}
    first, second = Node(folder, environment), Node(folder, environment)
    yield first, second
    for node in (first, second):
        node.end()
    run_apart(postgres.drop(address.database))


@pytest.fixture
async def two(pair: tuple[Node, Node]) -> tuple[Node, Node]:
    """Both up, whatever the test before did to them: starting one takes a second."""
    await asyncio.gather(*(node.start() for node in pair if node.process is None or node.process.poll() is not None))
    return pair


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if reason := why_not(found):
        pytest.skip(reason)
    return found


@pytest.fixture
async def proxy(kind: str, two: tuple[Node, Node], tmp_path: Path) -> AsyncIterator[Proxy]:
    async with Proxy(kind, tmp_path, [node.port for node in two], timeout=SHORT_TIMEOUT) as started:
        yield started


@pytest.fixture
async def ada(proxy: Proxy) -> AsyncIterator[Visitor]:
    async with Visitor(proxy) as visitor:
        yield visitor


class Visitor:
    """A guest who knows the proxy alone, repeats what is refused for the moment, and reads as a browser does."""

    def __init__(self, proxy: Proxy, *, local_address: str | None = None) -> None:
        self._proxy = proxy
        self.session = proxy.session(local_address=local_address)
        self.token = ""
        self.repeated = 0
        self.connections = 0
        self.has_place = asyncio.Event()

    async def __aenter__(self) -> Self:
        status, body = await self.request("POST", "/api/v1/auth/guest")
        assert status == 201, body
        self.token = body["access_token"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    def headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", **more} if self.token else more

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One try."""
        async with self.session.request(
            method, self._proxy.base + path, json=body, headers=self.headers(**(headers or {}))
        ) as response:
            data = await response.read()
            return response.status, json.loads(data) if data else None

    async def persistently(self, path: str, body: Any) -> Any:
        """POST with one key until it is taken; only 503 and a broken connection are worth another try."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        for _ in range(100):
            with contextlib.suppress(*PASSING):
                status, answer = await self.request("POST", path, body, key)
                if status != 503:
                    assert status == 201, (status, answer)
                    return answer
            self.repeated += 1
            await asyncio.sleep(0.1)
        raise AssertionError(f"nobody takes a POST to {path}")

    async def chat(self) -> str:
        identifier: str = (await self.persistently("/api/v1/chats", {"model_used": "scripted"}))["id"]
        return identifier

    async def ask(self, content: str) -> str:
        """The path of the answer's stream."""
        sent = await self.persistently(f"/api/v1/chats/{await self.chat()}/messages", {"content": content})
        path: str = sent["stream_url"]
        return path

    def open(self, path: str, last: str = "") -> Any:
        more = {"Last-Event-ID": last} if last else {}
        return self.session.get(
            self._proxy.base + path, headers=self.headers(Accept="text/event-stream", **more), allow_redirects=False
        )

    async def watch(self, path: str, seconds: float = 30) -> str:
        """The text that a browser's EventSource on `path` shows in the end: comes back after a drop, to its place,
        after the pause that it was told; gives up for ever on any status but 200.
        """
        text, last, pause, place = "", "", 0.2, -1
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(*PASSING):
                    async with self.open(path, last) as response:
                        self.connections += 1
                        assert response.status == 200, f"closed for ever by {response.status}: {await response.text()}"
                        async for event in read_events(response):
                            if event.get("code") == "reconnect":
                                pause = event["retry"] / 1000
                                continue
                            assert event.seq == place + 1, f"event {event.seq} after {place}"
                            last, place = event.id, event.seq
                            self.has_place.set()
                            text += event["content"] if event["type"] == "token" else ""
                            if event["type"] == "complete":
                                assert event["content"] == text
                                return text
                            assert event["type"] != "error", event
                await asyncio.sleep(pause)


def text_of(script: Script) -> str:
    return "".join(script.pieces())


async def test_events_come_one_by_one_and_uncompressed(ada: Visitor) -> None:
    path = await ada.ask("[[rate=10 tokens=20 stamp=1]]")
    delays, arrivals = [], []
    async with ada.open(path) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert not {"Content-Encoding", "Content-Length"} & set(response.headers)
        opened = time.time()
        async for event in read_events(response):
            if event["type"] == "token":
                made, now = float(event["content"].rpartition("@")[2]), time.time()
                # What was made before comes in one piece, and rightly so.
                if made > opened:
                    arrivals.append(now)
                    delays.append(now - made)
    assert len(arrivals) >= 8
    assert statistics.median(delays) < 0.3
    pauses = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    # Ten a second: a proxy that collects them shows a few long pauses and many of nothing.
    assert sum(pause > 0.03 for pause in pauses) > 0.7 * len(pauses), pauses


async def test_http_2_streams_too(ada: Visitor, proxy: Proxy) -> None:
    if shutil.which("curl") is None or "HTTP2" not in subprocess.check_output(["curl", "--version"], text=True):
        pytest.skip("needs curl with HTTP/2: apt-get install curl")
    path = await ada.ask("[[rate=10 tokens=15]]")
    command = ["curl", "-sN", "--http2", "--cacert", str(proxy.folder / "cert.pem"), "-w", "%{http_version}"]
    curl = await asyncio.create_subprocess_exec(
        *command, "-H", f"Authorization: Bearer {ada.token}", proxy.base + path, stdout=asyncio.subprocess.PIPE
    )
    assert curl.stdout is not None
    times = []
    rest = b""
    async for line in curl.stdout:
        rest = line
        if b'"token"' in line:
            times.append(time.monotonic())
    assert await curl.wait() == 0
    assert rest == b"2"
    assert len(times) == 15
    assert times[-1] - times[0] > 0.7


async def test_heartbeats_beat_the_timeouts(ada: Visitor) -> None:
    """Silence longer than the proxy's patience, before the first token and between two."""
    began = time.monotonic()
    assert await ada.watch(await ada.ask(f"[[first={SHORT_TIMEOUT + 1.5} tokens=3 rate=0]]")) == text_of(
        Script(tokens=3)
    )
    assert time.monotonic() - began > SHORT_TIMEOUT + 1
    assert ada.connections == 1


def test_timeouts_as_shipped_leave_room_for_three_heartbeats() -> None:
    heartbeat = config.Settings().stream.heartbeat
    for name, lines in (
        ("nginx.conf", ("proxy_read_timeout", "send_timeout")),
        ("haproxy.cfg", ("timeout client", "timeout server")),
    ):
        text = (DEPLOY / name).read_text()
        for line in lines:
            found = text.partition(f"    {line} ")[2].split("s")[0]
            assert int(found) > 3 * heartbeat, f"{name}: {line}"


async def test_rolling_restart_under_live_streams(proxy: Proxy, two: tuple[Node, Node]) -> None:
    """0 failed sends, 0 lost characters, no EventSource closed for good; half of the people send by GET (the form
    of the first web client), which their EventSource repeats by itself.
    """
    done = asyncio.Event()
    answers = 0

    async def live(visitor: Visitor, number: int) -> None:
        nonlocal answers
        while not done.is_set():
            script = Script(rate=40, tokens=100, seed=number * 1000 + answers)
            question = f"[[rate=40 tokens=100 seed={script.seed}]]"
            if number % 2:
                path = await visitor.ask(question)
            else:
                path = f"/api/v1/stream/chat/{await visitor.chat()}?message={quote(question)}"
            assert await visitor.watch(path) == text_of(script)
            answers += 1

    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        visitors = [await stack.enter_async_context(Visitor(proxy)) for _ in range(4)]
        for number in range(10):
            group.create_task(live(visitors[number % 4], number + 1))
        for node in two:
            # HAProxy asks a node that was down every half second whether it is back.
            await asyncio.sleep(1)
            assert await node.stop() == 0, node.log()
            await node.start()
        done.set()
    assert answers >= 10
    # With a key the proxy repeats a send by itself, so that not even the client has to.
    assert not sum(visitor.repeated for visitor in visitors)
    assert sum(visitor.connections for visitor in visitors) > answers, "nobody had to come back: what was proved?"


async def test_without_any_node_readers_are_told_to_come_back(ada: Visitor, two: tuple[Node, Node]) -> None:
    """Everybody down at once, for longer than a reader's pause: a single node that is restarted, or a crash."""
    script = Script(tokens=60)
    path = await ada.ask("[[rate=30 tokens=60]]")
    watching = asyncio.create_task(ada.watch(path))
    await ada.has_place.wait()
    for node in two:
        node.kill()
    identifier = path.split("/")[4]
    async with asyncio.timeout(5):
        while True:
            # Once the proxy has noticed: never a refusal.
            async with ada.open(path, f"{identifier}.0") as response:
                assert response.status == 200
                body = await response.text()
                if body.startswith("retry: 1000\ndata: "):
                    break
    assert "Content-Encoding" not in response.headers
    status, problem = await ada.request("POST", f"/api/v1/chats/{identifier}/messages", {"content": "hello"})
    assert status in {502, 503}
    assert isinstance(problem["error"], str)
    assert problem["code"] == "unavailable"
    await asyncio.gather(*(node.start() for node in two))
    assert await watching == text_of(script)


async def test_logs_hold_nothing_that_people_write(ada: Visitor, proxy: Proxy, two: tuple[Node, Node]) -> None:
    secret = "Kumquat"
    chat = await ada.chat()
    await ada.watch(f"/api/v1/stream/chat/{chat}?message={secret}%20[[tokens=2]]")
    stream = await ada.ask(f"{secret} [[tokens=2]]")
    status, ticket = await ada.request("POST", stream.replace("/stream", "/ticket"))
    assert status == 201
    paths = [
        f"/api/v1/stream/chat/{chat}?message={secret}",
        f"/api/v1/search?q={secret}",
        f"/api/v1/chats?{secret}=1",
        f"{stream}?ticket={secret}",
        str(ticket["stream_url"]),
    ]
    body = {"content": secret + "x" * 300_000}
    assert (await ada.request("POST", f"/api/v1/chats/{chat}/messages", body))[0] == 413
    for path in paths:
        with contextlib.suppress(*PASSING):
            await ada.request("GET", path, headers={"Accept": "application/x-ndjson"}) if "stream" not in path else None
            async with ada.open(path) as response:
                await response.read()
    async with ada.session.get(f"http://localhost:{proxy.plain_port}{paths[0]}", allow_redirects=False) as response:
        assert response.status == 308
        assert response.headers["Location"].startswith("https://localhost")
    for node in two:
        node.kill()
    # Now the proxy has errors to write down.
    for path in paths:
        async with ada.open(path) as response:
            assert response.status == 503
    logs = proxy.logs()
    assert f"/api/v1/stream/chat/{chat}" in logs
    assert "POST" in logs
    for word in (secret, str(ticket["ticket"])):
        assert word not in logs
        assert all(word not in node.log() for node in two)


async def test_nodes_see_the_client_and_believe_nobody_else(proxy: Proxy) -> None:
    async with Visitor(proxy, local_address="127.0.0.2") as visitor:
        status, sessions = await visitor.request(
            "GET", "/api/v1/users/me/sessions", headers={"X-Forwarded-For": "203.0.113.9"}
        )
        assert status == 200
        assert "127.0.0.2" in json.dumps(sessions)


async def test_what_is_too_large_is_refused_by_the_proxy_in_our_words(ada: Visitor) -> None:
    status, problem = await ada.request("POST", f"/api/v1/chats/{uuid.uuid4()}/messages", {"content": "x" * 300_000})
    assert status == 413
    assert (problem["status"], problem["code"]) == (413, "body_too_large")
    assert isinstance(problem["error"], str)


async def test_the_longest_question_by_get_gets_through(ada: Visitor) -> None:
    """2,000 characters of two bytes are 12,000 in an address."""
    question = "[[tokens=2]] " + "щ" * 1980
    assert await ada.watch(f"/api/v1/stream/chat/{await ada.chat()}?message={quote(question)}") == text_of(
        Script(tokens=2)
    )


async def test_a_node_that_is_gone_costs_no_request(ada: Visitor, two: tuple[Node, Node]) -> None:
    """Refused connections go to the next node, whatever the request is: nothing was sent yet."""
    assert await two[0].stop() == 0
    for _ in range(8):
        status, _ = await ada.request("POST", "/api/v1/chats", {})
        assert status == 201
        status, _ = await ada.request("GET", "/api/v1/chats")
        assert status == 200
