"""HTTP/1.1 as our own server speaks it: framing, order, limits, and what becomes of whoever does not keep to it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

import pytest
from raw_http import RawConnection
from tests.http_server.conftest import HEAD_BYTES, Serve, answer, read_body


def request(method: str = "GET", target: str = "/", *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode()


async def rest(connection: RawConnection) -> bytes:
    async with asyncio.timeout(5):
        return await connection.reader.read()


async def test_one_connection_serves_one_request_after_the_other(serve: Serve) -> None:
    running = await serve()
    connection = await running.connect()
    for path in ("/a", "/b"):
        await connection.send(request("GET", path))
        reply = await connection.answer()
        assert reply is not None
        assert (reply.status, reply.body) == (200, path.encode())
        assert reply.headers["date"].endswith("GMT")
        assert "connection" not in reply.headers
    await connection.close()


async def test_requests_in_a_pipeline_are_answered_in_their_order(serve: Serve) -> None:
    async def slow_first(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1 if scope["path"] == "/1" else 0)
        await answer(send, scope["path"].encode() + await read_body(receive))

    running = await serve(slow_first)
    connection = await running.connect()
    await connection.send(
        request("GET", "/1") + request("POST", "/2", "Content-Length: 3") + b"abc" + request("GET", "/3")
    )
    replies = [await connection.answer() for _ in range(3)]
    assert [reply and reply.body for reply in replies] == [b"/1", b"/2abc", b"/3"]
    await connection.close()


async def test_a_body_that_comes_after_its_head_had_to_wait_is_read(serve: Serve) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        await asyncio.sleep(0.2)
        await answer(send, scope["path"].encode() + body)

    running = await serve(slow)
    connection = await running.connect()
    for piece in (request("GET", "/1"), request("POST", "/2", "Content-Length: 3"), b"abc"):
        await connection.send(piece)
        await asyncio.sleep(0.05)
    replies = [await connection.answer(2) for _ in range(2)]
    assert [reply and reply.body for reply in replies] == [b"/1", b"/2abc"]
    await connection.close()


async def test_a_pipeline_without_end_is_cut_off(serve: Serve) -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await answer(send, b"")

    running = await serve(never)
    connection = await running.connect()
    await connection.send(request() * 1000)
    text = await rest(connection)
    assert text.count(b"HTTP/1.1 200") <= 20
    await connection.close()


@pytest.mark.parametrize("cut", [1, 7, 40, 61, 75])
async def test_a_request_may_come_in_pieces_of_any_size(serve: Serve, cut: int) -> None:
    running = await serve()
    data = request("POST", "/p", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    connection = await running.connect()
    for first in range(0, len(data), cut):
        await connection.send(data[first : first + cut])
        await asyncio.sleep(0.001)
    reply = await connection.answer()
    assert reply is not None
    assert reply.body == b"abcdefg"
    await connection.close()


async def test_a_stream_goes_out_in_chunks_and_the_connection_goes_on(serve: Serve) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        scope["extensions"]["outlet"].push(b"three")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    running = await serve(stream)
    connection = await running.connect()
    for _ in range(2):
        await connection.send(request())
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked\r\n" in head
        assert await connection.reader.readuntil(b"0\r\n\r\n") == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
    await connection.close()


async def test_http_1_0_gets_no_chunks_and_the_end_is_the_end_of_the_connection(serve: Serve) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["extensions"]["outlet"].push(b"abc")
        await send({"type": "http.response.body", "body": b"def", "more_body": False})

    running = await serve(stream)
    connection = await running.connect()
    await connection.send(request(version="1.0"))
    text = await rest(connection)
    assert text.endswith(b"\r\n\r\nabcdef")
    assert b"chunked" not in text
    assert b"connection: close\r\n" in text


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_where_no_body_belongs_none_is_sent(serve: Serve, method: str, status: int) -> None:
    async def bodyful(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"body", "more_body": False})

    running = await serve(bodyful)
    connection = await running.connect()
    await connection.send(request(method) + request(method, "/", "Connection: close"))
    text = await rest(connection)
    assert text.count(b"HTTP/1.1") == 2
    assert b"body" not in text
    assert b"chunked" not in text


@pytest.mark.parametrize("size", [HEAD_BYTES + 100, 1_000_000])
async def test_a_head_that_is_too_large_is_431(serve: Serve, size: int) -> None:
    running = await serve()
    connection = await running.connect()
    with contextlib.suppress(ConnectionError):
        await connection.send(request("GET", "/", f"X: {'x' * size}"))
    reply = await connection.answer()
    assert reply is not None
    assert (reply.status, reply.body) == (431, b"head_too_large")
    assert reply.headers["connection"] == "close"
    assert not running.seen


async def test_a_head_without_end_is_431_too(serve: Serve) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(40):
            await connection.send(b"y" * 1000)
            await asyncio.sleep(0.002)
    reply = await connection.answer()
    assert reply is not None
    assert reply.status == 431


async def test_more_than_a_hundred_lines_of_head_are_431(serve: Serve) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(request("GET", "/", *[f"X-{number}: y" for number in range(120)]))
    reply = await connection.answer()
    assert reply is not None
    assert reply.status == 431


async def test_a_head_that_does_not_come_is_408_and_silence_is_closed_without_a_word(serve: Serve) -> None:
    running = await serve(head_seconds=0.5)
    slow, silent = await running.connect(), await running.connect()
    began = time.monotonic()
    await slow.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
    reply = await slow.answer()
    assert reply is not None
    assert (reply.status, reply.body) == (408, b"head_timeout")
    assert await rest(silent) == b""
    assert time.monotonic() - began < 4


async def test_who_is_refused_and_stays_is_told_once_and_closed_on(serve: Serve) -> None:
    running = await serve(head_seconds=0.3)
    connection = await running.connect()
    await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
    began = time.monotonic()
    assert (await rest(connection)).count(b"HTTP/1.1 408") == 1
    while running.server.connections:  # a client that keeps its end open for ever
        assert time.monotonic() - began < 8
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS on a port that speaks HTTP
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_what_is_not_http_is_refused_with_a_reason(serve: Serve, data: bytes, status: int) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(data)
    reply = await connection.answer()
    assert reply is not None
    assert reply.status == status
    assert await rest(connection) == b""


async def test_an_offer_to_upgrade_is_answered_and_ends_the_connection(serve: Serve) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(request("GET", "/x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
    reply = await connection.answer()
    assert reply is not None
    assert (reply.status, reply.body) == (200, b"/x")
    assert await rest(connection) == b""


async def test_a_body_is_asked_for_when_it_is_wanted(serve: Serve) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 2"))
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(b"ok")
    reply = await connection.answer()
    assert reply is not None
    assert reply.body == b"ok"


async def test_an_early_answer_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await answer(send, b"too large", 413)

    running = await serve(refuse)
    connection = await running.connect()
    await connection.send(request("POST", "/", "Content-Length: 50000000"))
    with contextlib.suppress(ConnectionError):
        for _ in range(30):
            await connection.send(b"x" * 10_000)
            await asyncio.sleep(0.002)
    reply = await connection.answer()
    assert reply is not None
    assert (reply.status, reply.body) == (413, b"too large")
    assert reply.headers["connection"] == "close"


async def test_a_client_that_has_gone_is_told_to_the_application(serve: Serve) -> None:
    gone = asyncio.Event()

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        # For nobody, and without harm.
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        scope["extensions"]["outlet"].push(b"x")
        gone.set()

    running = await serve(watch)
    connection = await running.connect()
    await connection.send(request())
    await connection.reader.readuntil(b"\r\n\r\n")
    await connection.close()
    await asyncio.wait_for(gone.wait(), 5)


async def test_a_reader_who_takes_nothing_makes_the_writer_wait_and_costs_little(serve: Serve) -> None:
    sent = 0
    full = asyncio.Event()

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        outlet = scope["extensions"]["outlet"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 100_000_000:
            if outlet.full:
                full.set()
            await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
            sent += 4096

    running = await serve(flood)
    connection = await running.connect()
    await connection.send(request())
    await asyncio.wait_for(full.wait(), 10)
    await asyncio.sleep(0.2)
    before = sent
    await asyncio.sleep(0.2)
    assert sent == before, "the writer goes on although nobody reads"
    (open_connection,) = running.server.connections
    assert open_connection._transport.get_write_buffer_size() < 64 * 1024
    # How much has to be read before the kernel takes more is its own affair: some keep 32 MB for a reader.
    async with asyncio.timeout(10):
        while sent == before:
            assert await connection.reader.read(64 * 1024), "the connection ended although somebody reads"
    await connection.close()


async def test_half_an_answer_is_not_taken_for_a_whole_one(serve: Serve) -> None:
    async def break_off(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    running = await serve(break_off)
    connection = await running.connect()
    await connection.send(request())
    text = b""
    with contextlib.suppress(ConnectionResetError):
        text = await rest(connection)
    assert b"0\r\n\r\n" not in text


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\x00"])
async def test_a_line_break_in_a_header_of_ours_is_a_fault_and_no_second_header(serve: Serve, value: bytes) -> None:
    async def split(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"", 200, (b"x-value", value))

    running = await serve(split)
    connection = await running.connect()
    await connection.send(request())
    with contextlib.suppress(ConnectionResetError):
        assert b"set-cookie" not in await rest(connection)


async def test_at_the_end_idle_connections_close_and_answers_under_way_are_finished(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go_on.wait()
        await answer(send, b"done")

    running = await serve(wait)
    idle, busy = await running.connect(), await running.connect()
    await idle.send(request())
    assert (await idle.answer()) is not None
    await busy.send(request("GET", "/slow"))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(running.server.close(timeout=5))
    assert await rest(idle) == b""
    with pytest.raises(ConnectionError):
        await running.connect()
    go_on.set()
    reply = await busy.answer()
    assert reply is not None
    assert reply.body == b"done"
    await closing
    assert not running.server.connections


async def test_memory_of_a_request_is_let_go_when_its_stream_is_open(serve: Serve) -> None:
    opened = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        opened.set()
        await receive()

    running = await serve(stream)
    connection = await running.connect()
    await connection.send(request())
    await asyncio.wait_for(opened.wait(), 5)
    (open_connection,) = running.server.connections
    assert open_connection._parser is None
    assert not open_connection._headers
    await connection.close()


async def test_three_thousand_spoiled_requests_break_nothing(serve: Serve) -> None:
    """Flipped, cut, doubled and glued bytes: whatever comes of it, everybody else is served, and no callback fails."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))

    async def quiet_echo(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await answer(send, await read_body(receive))

    running = await serve(quiet_echo)
    rng = random.Random(20260731)
    good = [
        request("GET", "/a?b=%20c"),
        request("POST", "/", "Content-Length: 5") + b"hello",
        request("POST", "/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        request("POST", "/", "Expect: 100-continue", "Content-Length: 2") + b"ok",
        request("GET", "/", "Connection: Upgrade", "Upgrade: websocket"),
        request("GET", "/", "Connection: close", version="1.0"),
    ]
    for _ in range(100):
        connections = [await running.connect() for _ in range(30)]
        for connection in connections:
            data = bytearray(b"".join(rng.choices(good, k=rng.randint(1, 3))))
            for _ in range(rng.randint(1, 6)):
                place = rng.randrange(len(data))
                match rng.randrange(4):
                    case 0:
                        data[place] = rng.randrange(256)
                    case 1:
                        del data[place : place + rng.randint(1, 9)]
                    case 2:
                        data[place:place] = bytes(data[place : place + rng.randint(1, 30)])
                    case _:
                        data[place:place] = rng.choice([b"\r\n", b"\n", b"\x00", b":", b" ", b"\xff", b"9" * 20])
                data = data or bytearray(b"\r\n")
            with contextlib.suppress(ConnectionError):
                await connection.send(bytes(data))
        await asyncio.sleep(0)
        for connection in connections:
            await connection.close()
        connection = await running.connect()
        await connection.send(request("POST", "/", "Content-Length: 4") + b"well")
        reply = await connection.answer()
        assert reply is not None
        assert (reply.status, reply.body) == (200, b"well")
    assert not faults
