"""Wake-ups by Redis pub/sub, where it is configured: no lock of the database's, and no truth in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import redis.asyncio
import redis.exceptions

logger = logging.getLogger(__name__)

_CHANNEL = "llmchatbot:wakeups"
_SEND_SECONDS = 0.5
_CHECK_SECONDS = 5.0


class RedisRelay:
    """Redis may vanish at any time: `send` says so, and the next relay is asked."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        # By the loop's clock. A Redis that hangs looks connected, and must not cost every hint its half second.
        self._avoid_until = 0.0
        self.listening = asyncio.Event()

    async def send(self, message: str) -> bool:
        now = asyncio.get_running_loop().time
        if not self.listening.is_set() or now() < self._avoid_until:
            return False
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._client.publish(_CHANNEL, message)
        except (redis.exceptions.RedisError, OSError) as error:
            self._avoid_until = now() + _CHECK_SECONDS
            logger.info("a wake-up goes by NOTIFY: redis failed with %s", type(error).__name__)
            return False
        return True

    async def run(self, receive: Callable[[str], None]) -> None:
        """Returns when the connection is lost; whoever keeps this loop starts it again."""
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(_CHANNEL)
            self.listening.set()
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_CHECK_SECONDS)
                if message is not None:
                    receive(message["data"].decode())
        except (redis.exceptions.RedisError, OSError) as error:
            if self.listening.is_set():
                logger.warning("redis is away (%s); wake-ups go by NOTIFY", type(error).__name__)
        finally:
            self.listening.clear()
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
