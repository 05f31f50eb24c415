"""What the doctor says: one line for each thing that it has looked at."""

from __future__ import annotations

import re
from typing import Literal

import aiohttp
import msgspec

from llmchatbot.errors import DatabaseUnavailable, StartupError

PATIENCE = 3.0
"""Seconds for any server to answer."""


class Row(msgspec.Struct, frozen=True):
    """One line of the table. `advice` is what to type."""

    status: Literal["ok", "warn", "fail"]
    subject: str
    detail: str
    advice: str = ""


def failure(subject: str, error: StartupError | DatabaseUnavailable) -> Row:
    """The first line of our sentences is what is wrong, the others are what to type."""
    detail, _, advice = str(error).partition("\n")
    return Row("fail", subject, detail, advice)


def shown(value: str) -> str:
    """Without the user and password that an address may carry."""
    return re.sub(r"//[^/@\s]*@", "//…@", value)


async def fetched(url: str) -> tuple[int, bytes]:
    """Status and beginning of what is served there. Raises ClientError, TimeoutError, or ValueError for no address."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE), trust_env=False) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.content.read(65536)
