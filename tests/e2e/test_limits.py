"""Protocol §8 at the socket: sizes, times, methods, media types, and the headers that no answer may lack."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from nodes import Node, Person, database_environment
from raw_http import RawConnection, exchange
from tests.conftest import PostgresServer, run_apart
from tests.e2e.conftest import StartNode

PROBLEM = "application/problem+json"
ORIGIN = "https://chat.example.com"
LARGEST_BODY = 256 * 1024
ALWAYS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@pytest.fixture(scope="module")
def strict_node(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Impatient, and used by a web client of another origin."""
    address = run_apart(postgres.create())
    node = Node(
        tmp_path_factory.mktemp("strict"),
        {
            **database_environment(address),
            "SERVER_READ_TIMEOUT": "1s",
            "SERVER_IDLE_TIMEOUT": "1s",
            "CORS_ORIGINS": f"{ORIGIN}, http://localhost:5173",
        },
    )
    run_apart(node.start())
    yield node
    node.end()
    run_apart(postgres.drop(address.database))


@pytest.fixture
async def visitor(strict_node: Node) -> AsyncIterator[Person]:
    async with Person(strict_node) as somebody:
        yield somebody


def head(method: str, target: str, *lines: str, host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def bearer(person: Person) -> str:
    return f"Authorization: Bearer {person.token}"


async def test_a_body_of_256_kb_is_read_and_one_more_byte_is_413(person: Person) -> None:
    filling = "x" * (LARGEST_BODY - len('{"title":""}'))
    for title, expected in ((filling, 400), (filling + "x", 413)):
        data = f'{{"title":"{title}"}}'.encode()
        async with person.session.post(
            f"{person.node.base}/api/v1/chats",
            data=data,
            headers=person.headers(**{"Content-Type": "application/json"}),
        ) as response:
            body = await response.json(content_type=PROBLEM)
        assert (response.status, body["status"]) == (expected, expected)


async def test_a_body_without_length_is_counted_too(person: Person) -> None:
    connection = await RawConnection.open(person.node.port)
    await connection.send(
        head("POST", "/api/v1/chats", bearer(person), "Content-Type: application/json", "Transfer-Encoding: chunked")
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(5):
        await connection.send(chunk)
    answer = await connection.answer()
    assert answer is not None
    assert answer.status == 413
    assert answer.json()["code"] == "body_too_large"
    await connection.close()


async def test_a_length_that_is_too_large_is_refused_before_the_body_came(person: Person) -> None:
    request = head(
        "POST", "/api/v1/chats", bearer(person), "Content-Type: application/json", f"Content-Length: {LARGEST_BODY + 1}"
    )
    answer = await exchange(person.node.port, request)
    assert answer is not None
    assert answer.status == 413


async def test_a_head_of_more_than_16_kb_is_refused(node: Node) -> None:
    answer = await exchange(node.port, head("GET", "/health", f"X-Large: {'x' * 17_000}"))
    assert answer is None or answer.status in {400, 431}
    answer = await exchange(node.port, head("GET", "/health", f"X-Large: {'x' * 12_000}"))
    assert answer is not None
    assert answer.status == 200


async def test_a_head_that_never_ends_is_cut_off(strict_node: Node) -> None:
    """Slow loris: a byte now and then must not hold a connection."""
    connection = await RawConnection.open(strict_node.port)
    began = time.monotonic()
    await connection.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    dripping = asyncio.create_task(drip(connection))
    try:
        answer = await connection.answer(timeout=5)
    finally:
        dripping.cancel()
    assert answer is None or answer.status == 408
    assert time.monotonic() - began < 4
    await connection.close()


async def drip(connection: RawConnection) -> None:
    while True:
        await asyncio.sleep(0.2)
        try:
            await connection.send(b"x")
        except ConnectionError:
            return


@pytest.mark.parametrize("target", ["/api/v1/chats", "/api/v1/chats/{chat}/messages"])
async def test_a_body_that_never_ends_is_408(visitor: Person, target: str) -> None:
    """On a route that streams, too: its own deadlines begin with its first frame."""
    connection = await RawConnection.open(visitor.node.port)
    path = target.format(chat=await visitor.chat())
    began = time.monotonic()
    lines = (bearer(visitor), "Content-Type: application/json", "Content-Length: 1000")
    await connection.send(head("POST", path, *lines) + b'{"title": "')
    answer = await connection.answer(timeout=5)
    assert answer is not None
    assert (answer.status, answer.json()["code"]) == (408, "body_timeout")
    assert 0.8 < time.monotonic() - began < 4
    await connection.close()


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: one.example", "Host: two.example"],
        ["Host: one example"],
        ["Host: one.example/path"],
    ],
)
async def test_host_headers_that_are_none(node: Node, lines: list[str]) -> None:
    request = "\r\n".join(["GET /health HTTP/1.1", *lines, "", ""]).encode()
    answer = await exchange(node.port, request)
    assert answer is None or answer.status == 400


async def test_the_absolute_form_reaches_the_same_routes(node: Node) -> None:
    """RFC 9112 §3.2.2; what stands before the path decides nothing."""
    answer = await exchange(node.port, head("GET", "http://elsewhere.example/health"))
    assert answer is not None
    assert answer.status == 200
    answer = await exchange(node.port, head("GET", "http://elsewhere.example/api/v1/chats"))
    assert answer is not None
    assert answer.status == 401


async def test_length_and_chunks_together_smuggle_nothing(person: Person) -> None:
    """RFC 9112 §6.1: refused, or the connection ends after it, so that no rest becomes a request."""
    inner = head("GET", "/health")
    lines = (bearer(person), "Content-Type: application/json", "Content-Length: 5", "Transfer-Encoding: chunked")
    connection = await RawConnection.open(person.node.port)
    await connection.send(head("POST", "/api/v1/chats", *lines) + b"0\r\n\r\n" + inner)
    first = await connection.answer()
    if first is not None and first.status < 400:
        assert await connection.answer() is None
    await connection.close()


async def test_no_route_and_wrong_method_are_problem_documents(person: Person) -> None:
    async with person.session.get(f"{person.node.base}/api/v1/nothing") as response:
        assert response.status == 404
        assert response.content_type == PROBLEM
        assert (await response.json(content_type=PROBLEM))["code"] == "not_found"
    async with person.session.patch(f"{person.node.base}/api/v1/chats", headers=person.headers()) as response:
        assert response.status == 405
        assert response.content_type == PROBLEM
        assert set(response.headers["Allow"].split(", ")) == {"GET", "POST", "OPTIONS"}


async def test_options_tells_the_methods_and_asks_for_nothing(person: Person) -> None:
    async with person.session.options(f"{person.node.base}/api/v1/chats") as response:
        assert response.status == 204
        assert set(response.headers["Allow"].split(", ")) == {"GET", "POST", "OPTIONS"}


async def test_head_is_answered_without_a_body(person: Person) -> None:
    for path, status in (("/health", 200), ("/", 200), ("/api/v1/chats", 405)):
        async with person.session.head(person.node.base + path, headers=person.headers()) as response:
            assert response.status == status, path
            assert await response.read() == b""


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_a_body_that_is_not_called_json_is_415(person: Person, content_type: str) -> None:
    body = b'{"title":"x"}'
    lines = [bearer(person), f"Content-Length: {len(body)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    answer = await exchange(person.node.port, head("POST", "/api/v1/chats", *lines) + body)
    assert answer is not None
    assert (answer.status, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_by_any_of_its_names_is_read(person: Person, content_type: str) -> None:
    async with person.session.post(
        f"{person.node.base}/api/v1/chats", data=b"{}", headers=person.headers(**{"Content-Type": content_type})
    ) as response:
        assert response.status == 201


async def test_every_kind_of_answer_has_the_security_headers(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, "hello")
    answers: list[tuple[str, str]] = [
        ("GET", "/health"),
        ("GET", "/"),
        ("GET", "/assets/js/app.js"),
        ("GET", "/assets/nothing"),
        ("GET", "/nothing"),
        ("GET", "/api/v1/chats"),
        ("GET", f"/api/v1/chats/{chat}"),
        ("PATCH", "/api/v1/chats"),
        ("OPTIONS", "/api/v1/chats"),
        ("GET", f"/api/v1/generations/{generation}/stream"),
        ("GET", f"/api/v1/generations/{chat}/stream"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    ]
    for method, path in answers:
        async with person.session.request(method, person.node.base + path, headers=person.headers()) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            assert ALWAYS.items() <= headers.items(), path
            assert "frame-ancestors 'none'" in headers["content-security-policy"], path
            assert headers["x-request-id"]
            if path.startswith("/api/"):
                assert "no-store" in headers["cache-control"], path
                assert "default-src 'none'" in headers["content-security-policy"], path
            await response.read()


async def test_a_request_id_of_a_proxy_is_kept_and_nonsense_is_not(person: Person) -> None:
    for given, kept in (("proxy-1.2_3", True), ("two words", False), ("x" * 65, False)):
        async with person.session.get(f"{person.node.base}/health", headers={"X-Request-Id": given}) as response:
            assert (response.headers["X-Request-Id"] == given) is kept


async def test_cross_origin_reading_is_for_the_origins_that_were_named(visitor: Person) -> None:
    for origin, allowed in ((ORIGIN, True), ("http://localhost:5173", True), ("https://evil.example", False)):
        async with visitor.session.get(
            f"{visitor.node.base}/api/v1/chats", headers=visitor.headers(Origin=origin)
        ) as response:
            assert response.status == 200
            assert response.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
            assert response.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in response.headers
            exposed = response.headers.get("Access-Control-Expose-Headers", "")
            wanted = {"ETag", "Link", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Generation-Id"}
            assert wanted <= set(exposed.split(", ")) if allowed else not exposed


async def test_a_preflight_needs_no_token_and_allows_no_cookies(visitor: Person) -> None:
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with visitor.session.options(f"{visitor.node.base}/api/v1/chats", headers=ask) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        allowed = {name.strip().lower() for name in response.headers["Access-Control-Allow-Headers"].split(",")}
        assert {"authorization", "content-type", "idempotency-key", "last-event-id", "if-match"} <= allowed
        assert "x-refresh-cookie" not in allowed
        assert "Access-Control-Allow-Credentials" not in response.headers


async def test_without_cors_origins_nobody_may_read_from_elsewhere(node: Node) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{node.base}/health", headers={"Origin": ORIGIN}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
        ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        async with session.options(f"{node.base}/api/v1/chats", headers=ask) as response:
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_one_device_holds_so_many_streams_and_leaves_room_for_others(start_node: StartNode) -> None:
    node = await start_node(MAX_STREAMS="3")
    async with Person(node) as greedy, Person(node) as other, contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(greedy.stream("/api/v1/events")) for _ in range(3)]
        assert {response.status for response in held} == {200}
        generation = await greedy.start(await greedy.chat(), "[[rate=0 tokens=3]]")
        for path in ("/api/v1/events", f"/api/v1/generations/{generation}/stream"):
            async with greedy.stream(path) as refused:
                assert refused.status == 429
                assert int(refused.headers["Retry-After"]) > 0
                assert (await refused.json())["code"] == "rate_limited"
        async with greedy.stream(f"/api/v1/generations/{generation}/stream", last=f"{generation}.1") as back:
            # Chromium's EventSource gives up for ever on a 429 (protocol §6).
            assert back.status == 200
            assert (await back.read()).startswith(b"retry: ")
        async with other.stream("/api/v1/events") as served:
            assert served.status == 200
        held[0].close()
        async with asyncio.timeout(5):
            while True:
                async with greedy.stream(f"/api/v1/generations/{generation}/stream") as again:
                    if again.status == 200:
                        break
                await asyncio.sleep(0.05)
