"""Accounts and chats of the load, made through the public API."""

from __future__ import annotations

import asyncio
import secrets

import aiohttp
import msgspec

from benchmarks.processes import BenchmarkError

PASSWORD = "correct-horse-battery-9"
CHATS_PER_ACCOUNT = 20


class Chat(msgspec.Struct, frozen=True):
    """One chat and the bearer header of its owner."""

    id: str
    authorization: str


class _Created(msgspec.Struct):
    """What matters of the answers to a registration and to a new chat."""

    id: str = ""
    access_token: str = ""


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, str], authorization: str = "") -> _Created:
    headers = {"Authorization": authorization} if authorization else {}
    async with session.post(path, json=body, headers=headers) as response:
        if response.status != 201:
            raise BenchmarkError(f"POST {path} answered {response.status}: {await response.text()}")
        return msgspec.json.decode(await response.read(), type=_Created)


async def register(session: aiohttp.ClientSession) -> tuple[str, str]:
    """A new account: its address and its bearer header."""
    name = f"bench-{secrets.token_hex(8)}"
    email = f"{name}@example.com"
    tokens = await _post(session, "/api/v1/auth/register", {"email": email, "username": name, "password": PASSWORD})
    return email, f"Bearer {tokens.access_token}"


def session_to(port: int) -> aiohttp.ClientSession:
    """Few connections: preparation must not be a load."""
    return aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=8))


async def make_chats(port: int, count: int) -> list[Chat]:
    """`count` chats, spread over as many accounts as twenty chats each need."""
    async with session_to(port) as session:
        owners = await asyncio.gather(*(register(session) for _ in range(-(-count // CHATS_PER_ACCOUNT))))

        async def make(index: int) -> Chat:
            _, authorization = owners[index // CHATS_PER_ACCOUNT]
            created = await _post(session, "/api/v1/chats", {"title": f"Benchmark {index}"}, authorization)
            return Chat(created.id, authorization)

        return list(await asyncio.gather(*(make(index) for index in range(count))))
