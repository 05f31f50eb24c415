"""Clients that take nothing, or never end what they say: neither costs more than a bounded piece of memory and time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from raw_http import RawConnection
from tests.http_server.conftest import HEAD_BYTES, Serve, answer

MEGABYTE = 1_000_000


def ask(*headers: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} / HTTP/1.1", "Host: x", *headers, "", "")).encode()


async def a_megabyte(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"x" * MEGABYTE)


def takes_nothing(connection: RawConnection) -> None:
    transport = connection.writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()


async def until(condition: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 # what the server does to a socket is no event of ours
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("size", "packets"), [(50_000, 40), (MEGABYTE, 10)])
async def test_answers_to_a_client_that_takes_none_do_not_pile_up(serve: Serve, size: int, packets: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * size)

    running = await serve(application, send_seconds=60)
    connection = await running.connect()
    takes_nothing(connection)
    for _ in range(packets):
        connection.writer.write(ask() * 10)
        await asyncio.sleep(0.02)
    (served,) = running.server.connections
    assert served._transport.get_write_buffer_size() < 200_000


@pytest.mark.parametrize("ending", [(), ("Connection: close",)], ids=["kept", "closed"])
async def test_a_client_that_takes_nothing_is_cut_off(serve: Serve, ending: tuple[str, ...]) -> None:
    running = await serve(a_megabyte, send_seconds=1, head_seconds=1)
    connection = await running.connect()
    takes_nothing(connection)
    await connection.send(ask() * 15 + ask(*ending))
    await until(lambda: running.server.connections)
    await until(lambda: not running.server.connections)


async def test_a_client_that_takes_little_at_a_time_gets_everything(serve: Serve) -> None:
    running = await serve(a_megabyte, send_seconds=1)
    connection = await running.connect()
    await connection.send(ask() * 12 + ask("Connection: close"))
    taken = 0
    async with asyncio.timeout(20):
        while taken < 13 * MEGABYTE:
            piece = await connection.reader.read(MEGABYTE)
            assert piece, "cut off although it takes what comes"
            taken += len(piece)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "start",
    [b"2\r\n{}\r\n0\r\nX: ", b"2\r\n{}\r\n0\r\nX: a\r\nY: ", b"2;extension="],
    ids=["a trailer", "the second trailer", "a chunk's extension"],
)
async def test_what_is_said_beside_a_body_has_a_limit(serve: Serve, start: bytes) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(ask("Transfer-Encoding: chunked", method="POST") + start)
    sent = 0
    reply = asyncio.create_task(connection.answer())
    while not reply.done() and sent < 100 * HEAD_BYTES:
        await connection.send(b"a" * 4096)
        sent += 4096
        await asyncio.sleep(0.001)
    refused = await reply
    assert refused is not None
    assert refused.status == 431
    assert sent <= 3 * HEAD_BYTES


async def test_a_body_in_many_small_chunks_is_no_head(serve: Serve) -> None:
    running = await serve()
    connection = await running.connect()
    await connection.send(ask("Transfer-Encoding: chunked", method="POST"))
    for _ in range(200):
        await connection.send(b"1\r\na\r\n" * 100)
    await connection.send(b"0\r\n\r\n")
    reply = await connection.answer()
    assert reply is not None
    assert reply.body == b"a" * 20_000
