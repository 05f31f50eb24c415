"""The way from our front to the engine: a permit per slot, one request, the events of its stream.

Two habits of the engine shape this file. It notices that a client has gone only when it writes to it, so every request
is a stream with progress events even where the caller wants one JSON object. And it closes the connection after a
stream, so connections are never kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from llmchatbot.llm.decoder import SseDecoder

logger = logging.getLogger(__name__)

KEEP_ALIVE = 10.0
"""Seconds of waiting after which a caller gets a sign of life; half of what the shortest usual time limit allows."""
ANSWER_TIME = 600.0
"""Seconds for one answer (protocol §6)."""
_PROGRESS = b'"prompt_progress"'


class RefusedError(Exception):
    """What the caller is told: an HTTP status, a code of OpenAI's, and a sentence. Never text of the conversation."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int = 0) -> None:
        """`retry_after` in seconds."""
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after
        super().__init__(message)


def interrupted() -> RefusedError:
    """The engine ended a stream without its end mark."""
    return RefusedError(502, "interrupted", "The model stopped before the end of its answer.")


class _EngineError(msgspec.Struct):
    type: str = ""
    message: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _ErrorBody(msgspec.Struct):
    error: _EngineError = msgspec.field(default_factory=_EngineError)


class EngineClient:
    """Fair (first come, first served) access to the slots of one engine."""

    def __init__(self, url: str, key: str, *, slots: int, waiting: int) -> None:
        """`waiting`: how many may wait for a slot; more are refused at once."""
        self._url = url
        self._permits = asyncio.Semaphore(slots)
        self._slots, self._limit = slots, slots + waiting
        self.inside = 0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIME, sock_connect=5),
            trust_env=False,
        )

    @property
    def waiting(self) -> int:
        return max(0, self.inside - self._slots)

    async def close(self) -> None:
        await self._session.close()

    async def healthy(self) -> bool:
        """Whether the engine answers and has its model."""
        try:
            async with self._session.get(f"{self._url}/health", timeout=aiohttp.ClientTimeout(total=3)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def busy_slots(self) -> int:
        """How many slots the engine itself says are at work; our own count when it does not answer in time."""
        try:
            async with self._session.get(f"{self._url}/slots", timeout=aiohttp.ClientTimeout(total=3)) as response:
                slots = msgspec.json.decode(await response.read(), type=list[dict[str, Any]])
                return sum(1 for slot in slots if slot.get("is_processing"))
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            return min(self.inside, self._slots)

    @asynccontextmanager
    async def slot(self, keep_alive: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Wait for a slot, with a sign of life now and then. Raises RefusedError when too many wait already."""
        if self.inside >= self._limit:
            raise RefusedError(
                503, "overloaded", "The model is overloaded: too many requests wait for it.", retry_after=5
            )
        self.inside += 1
        try:
            await self._acquire(keep_alive)
            try:
                yield
            finally:
                self._permits.release()
        finally:
            self.inside -= 1

    async def _acquire(self, keep_alive: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    await self._permits.acquire()
                    return
            except TimeoutError:
                await keep_alive()

    @asynccontextmanager
    async def completion(self, body: dict[str, Any]) -> AsyncIterator[AsyncGenerator[list[bytes], None]]:
        """The payloads of each network read; an empty list is a sign of progress on the prompt.

        Leaving the context closes the connection, which frees the slot after the batch at hand.
        Raises RefusedError when the engine refuses or breaks.
        """
        body = {**body, "stream": True, "return_progress": True}
        try:
            async with self._session.post(
                f"{self._url}/v1/chat/completions",
                data=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.content.read(65536))
                yield _payloads(response.content)
        except aiohttp.ClientPayloadError as error:
            raise interrupted() from error
        except aiohttp.ClientError as error:
            logger.warning("the engine cannot be reached error=%s", type(error).__name__)
            raise RefusedError(503, "unavailable", "The model is not available right now.", retry_after=1) from error
        except TimeoutError as error:
            raise RefusedError(504, "timeout", "The answer took too long.") from error


async def _payloads(content: aiohttp.StreamReader) -> AsyncGenerator[list[bytes], None]:
    decoder = SseDecoder()
    async for chunk in content.iter_any():
        events = decoder.feed(chunk)
        if decoder.failure is not None:
            raise interrupted()
        if events:
            # Escaped quotation marks keep this word out of any text of the model.
            yield [data for _, data in events if _PROGRESS not in data]


def _refusal(status: int, body: bytes) -> RefusedError:
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.DecodeError:
        error = _EngineError()
    if error.type == "exceed_context_size_error":
        return RefusedError(
            400,
            "context_length_exceeded",
            f"The conversation has {error.n_prompt_tokens} tokens, and the context length is {error.n_ctx}.",
        )
    logger.warning("the engine refused status=%d type=%s", status, error.type)
    if status == 400:
        return RefusedError(400, "invalid_request", "The engine cannot process this request: check its parameters.")
    if status == 503:
        return RefusedError(503, "unavailable", "The model is not available right now.", retry_after=1)
    return RefusedError(502, "engine_error", "The engine failed to answer.")
