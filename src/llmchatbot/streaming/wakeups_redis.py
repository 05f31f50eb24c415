"""Wake-ups by Redis pub/sub, where it is configured: no lock of the database's, and no truth in Redis.

While Redis is away, hints go by NOTIFY instead; every process listens to both all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import redis.asyncio
import redis.exceptions

from llmchatbot.streaming.wakeups import Callback
from llmchatbot.streaming.wakeups_postgres import PostgresWakeUps

logger = logging.getLogger(__name__)

_CHANNEL = "llmchatbot:wakeups"
_PUBLISH_SECONDS = 0.5
_CHECK_SECONDS = 5.0


class RedisWakeUps:
    """`run` subscribes and connects again for ever; `fallback` is run by whoever runs this."""

    def __init__(self, client: redis.asyncio.Redis, fallback: PostgresWakeUps) -> None:
        self._client = client
        self._fallback = fallback
        self.listening = asyncio.Event()

    async def publish(self, topic: str, payload: str) -> None:
        if self.listening.is_set():
            try:
                async with asyncio.timeout(_PUBLISH_SECONDS):
                    await self._client.publish(_CHANNEL, f"{topic}|{payload}")
            except (redis.exceptions.RedisError, OSError) as error:
                logger.info("a wake-up goes by NOTIFY: redis failed with %s", type(error).__name__)
            else:
                return
        await self._fallback.publish(topic, payload)

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        return self._fallback.subscribe(topic, callback)

    async def run(self) -> None:
        """Returns when the connection is lost; whoever keeps this loop starts it again."""
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(_CHANNEL)
            self.listening.set()
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_CHECK_SECONDS)
                if message is not None:
                    topic, _, payload = message["data"].decode().partition("|")
                    self._fallback.deliver(topic, payload)
        except (redis.exceptions.RedisError, OSError) as error:
            if self.listening.is_set():
                logger.warning("redis is away (%s); wake-ups go by NOTIFY", type(error).__name__)
        finally:
            self.listening.clear()
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
