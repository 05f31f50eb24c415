"""Counting what may be done how often in Redis, where it is configured."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import redis.asyncio
import redis.exceptions

from llmchatbot.models.rate_limits import Tally
from llmchatbot.services.rate_limits import Counters, Keyed, window_end

logger = logging.getLogger(__name__)

# Seconds that one call to Redis may take, and for which it is not called after a failure.
_PATIENCE = 0.5
_PAUSE = 5.0

# One hash per key: end of a part (Unix milliseconds) -> count. ARGV: now, then for each key: end, limit, time to live.
_HIT = """
local now, all, answer = tonumber(ARGV[1]), 1, {}
for k, key in ipairs(KEYS) do
  local used, first = 0, tonumber(ARGV[3 * k - 1])
  local parts = redis.call('HGETALL', key)
  for i = 1, #parts, 2 do
    local part, count = tonumber(parts[i]), tonumber(parts[i + 1])
    if part <= now or count <= 0 then
      redis.call('HDEL', key, parts[i])
    else
      used = used + count
      if part < first then first = part end
    end
  end
  local allowed = used < tonumber(ARGV[3 * k]) and 1 or 0
  if allowed == 0 then all = 0 end
  answer[k] = {allowed, used, first - now}
end
if all == 1 then
  for k, key in ipairs(KEYS) do
    redis.call('HINCRBY', key, ARGV[3 * k - 1], 1)
    redis.call('PEXPIRE', key, ARGV[3 * k + 1])
  end
end
return answer
"""
_TAKE_BACK = """
local now = tonumber(ARGV[1])
for _, key in ipairs(KEYS) do
  local latest = nil
  local parts = redis.call('HGETALL', key)
  for i = 1, #parts, 2 do
    local part = tonumber(parts[i])
    if part > now and tonumber(parts[i + 1]) > 0 and (latest == nil or part > latest) then latest = part end
  end
  if latest ~= nil then redis.call('HINCRBY', key, string.format('%.0f', latest), -1) end
end
return 1
"""


class RedisCounters:
    """Counts as `PostgresCounters` does, and what is sent to Redis is one script.

    While Redis is away, `fallback` counts: limits get looser for a while, never tighter.
    """

    def __init__(self, client: redis.asyncio.Redis, fallback: Counters, *, prefix: str = "llmchatbot:rate:") -> None:
        self._client = client
        self._fallback = fallback
        self._prefix = prefix
        self._away_until = 0.0

    async def hit(self, wanted: Sequence[Keyed], now: datetime) -> list[Tally]:
        arguments = [_milliseconds(now)]
        for _, quota in wanted:
            arguments += [_milliseconds(window_end(quota, now)), quota.limit, math.ceil(quota.period * 2000)]
        answer = await self._ask(_HIT, wanted, arguments)
        if answer is None:
            return await self._fallback.hit(wanted, now)
        return [Tally(allowed=bool(allowed), used=used, retry_after=wait / 1000) for allowed, used, wait in answer]

    async def take_back(self, wanted: Sequence[Keyed], now: datetime) -> None:
        if await self._ask(_TAKE_BACK, wanted, [_milliseconds(now)]) is None:
            await self._fallback.take_back(wanted, now)

    async def _ask(self, script: str, wanted: Sequence[Keyed], arguments: Sequence[int]) -> Any:
        """None when Redis does not answer soon; it is then left alone for a while, or all log-ins would wait for it."""
        loop_time = asyncio.get_running_loop().time
        if loop_time() < self._away_until:
            return None
        keys = [self._prefix + key for key, _ in wanted]
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._client.eval(script, len(keys), *keys, *(str(argument) for argument in arguments))
        except (redis.exceptions.RedisError, OSError) as error:
            self._away_until = loop_time() + _PAUSE
            logger.warning("event=rate_counter_fallback error=%s", type(error).__name__)
            return None


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
