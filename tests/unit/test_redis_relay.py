"""A Redis that hangs is worse than one that is gone: it looks connected."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from llmchatbot.streaming import wakeups_redis
from llmchatbot.streaming.wakeups_redis import RedisRelay


class Hanging:
    def __init__(self) -> None:
        self.asked = 0

    async def publish(self, channel: str, message: str) -> None:
        self.asked += 1
        await asyncio.Event().wait()


async def test_a_redis_that_hangs_costs_one_hint_its_time_and_not_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups_redis, "_SEND_SECONDS", 0.01)
    redis = Hanging()
    relay = RedisRelay(cast("Any", redis))
    relay.listening.set()
    assert [await relay.send("a hint") for _ in range(20)] == [False] * 20
    assert redis.asked == 1
    # It is asked again later.
    relay._avoid_until = 0.0
    assert not await relay.send("a hint")
    assert redis.asked == 2
