"""HTTP byte by byte, for requests that no client library would send."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec


class RawAnswer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawConnection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> RawConnection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, timeout: float = 10.0) -> RawAnswer | None:
        """None when the server closes without a word."""
        async with asyncio.timeout(timeout):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return None
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return RawAnswer(int(first.split()[1]), headers, body)

    async def close(self) -> None:
        self.writer.close()


async def exchange(port: int, data: bytes, *, timeout: float = 10.0) -> RawAnswer | None:
    connection = await RawConnection.open(port)
    try:
        await connection.send(data)
        return await connection.answer(timeout)
    except ConnectionError:
        return None
    finally:
        await connection.close()
