"""What may be done how often.

`RateLimiter` smooths requests within one process and costs a microsecond. `Attempts` counts what must hold over all
processes (log-ins, registrations): strictly at most `limit` in *any* stretch of `period` seconds, because the period is
cut in twelve parts and a part counts until it lies wholly outside.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol

from llmchatbot.clock import Clock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable, RateLimited, Unavailable
from llmchatbot.models.rate_limits import Quota, Tally
from llmchatbot.repositories import rate_limits

_PARTS = 12


def limit_headers(quota: Quota, *, remaining: int, reset: float) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10); `reset` in seconds."""
    return {
        "RateLimit-Policy": f'"{quota.policy}";q={quota.limit};w={math.ceil(quota.period)}',
        "RateLimit": f'"{quota.policy}";r={max(0, remaining)};t={max(0, math.ceil(reset))}',
    }


def network_of(address: str) -> str:
    """What is counted as one address: a whole /64 of IPv6, since that is what one subscriber has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def opaque(text: str) -> str:
    """A key part that says nothing about an account to whoever reads the counters."""
    return hashlib.sha256(text.encode()).hexdigest()


class RateLimiter:
    """Token buckets in this process: a burst of `limit`, then `limit / per_seconds` a second."""

    def __init__(self, clock: Clock, *, most_keys: int = 50_000) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, key: str, limit: int, per_seconds: float) -> dict[str, str]:
        """Take one; the headers to send along. `key` is `<policy>:<whose>`. Raises RateLimited."""
        now = self._clock.monotonic()
        rate = limit / per_seconds
        left, since = self._buckets.pop(key, (float(limit), now))
        left = min(float(limit), left + (now - since) * rate)
        taken = left >= 1
        self._buckets[key] = (left - 1 if taken else left, now)
        if len(self._buckets) > self._most_keys:
            # The one not seen for longest: most likely full again, and then nothing is forgotten.
            self._buckets.popitem(last=False)
        quota = Quota(policy=key.partition(":")[0], limit=limit, period=per_seconds)
        if not taken:
            wait = (1 - left) / rate
            raise RateLimited(retry_after=math.ceil(wait), headers=limit_headers(quota, remaining=0, reset=wait))
        return limit_headers(quota, remaining=int(left - 1), reset=(limit - left + 1) / rate)


Keyed = tuple[str, Quota]


class Counters(Protocol):
    """Counting shared by all processes."""

    async def hit(self, wanted: Sequence[Keyed], now: datetime) -> list[Tally]:
        """Count one of each, or none at all when one of the quotas is used up; how each stood before."""
        ...

    async def take_back(self, wanted: Sequence[Keyed], now: datetime) -> None:
        """Uncount the latest one of each."""
        ...


def window_end(quota: Quota, now: datetime) -> datetime:
    """Until when what happens now counts: a period after the end of the present part."""
    part = quota.period / _PARTS
    return datetime.fromtimestamp((math.floor(now.timestamp() / part) + 1) * part + quota.period, UTC)


class PostgresCounters:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def hit(self, wanted: Sequence[Keyed], now: datetime) -> list[Tally]:
        demands = [rate_limits.Demand(key, quota.limit, window_end(quota, now)) for key, quota in wanted]
        async with self._db.transaction() as transaction:
            await rate_limits.lock(transaction, [demand.key for demand in demands])
            return await rate_limits.hit(transaction, demands, now)

    async def take_back(self, wanted: Sequence[Keyed], now: datetime) -> None:
        await rate_limits.take_back(self._db, [key for key, _ in wanted], now)


class Attempts:
    """What may be tried how often, as the services ask for it."""

    def __init__(self, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock

    async def take(self, wanted: Sequence[Keyed]) -> None:
        """Raises RateLimited when one of the keyed quotas is used up; then none of them is charged."""
        tallies = await self._counters.hit(wanted, self._clock.now())
        for (_, quota), tally in zip(wanted, tallies, strict=True):
            if not tally.allowed:
                raise RateLimited(
                    "Too many attempts; wait and try again.",
                    retry_after=math.ceil(tally.retry_after),
                    headers=limit_headers(quota, remaining=0, reset=tally.retry_after),
                )

    @asynccontextmanager
    async def taking(self, wanted: Sequence[Keyed]) -> AsyncIterator[None]:
        """`take` for the work inside; given back when that is Unavailable: nothing was tried then, and nobody shall be
        locked out because the machine is busy. Raises RateLimited."""
        await self.take(wanted)
        try:
            yield
        except Unavailable:
            # The database may be what is away: the charge stays, and the first failure is the one to report.
            with suppress(DatabaseUnavailable):
                await self.give_back(wanted)
            raise

    async def give_back(self, wanted: Sequence[Keyed]) -> None:
        """For attempts that turned out to be good ones."""
        await self._counters.take_back(wanted, self._clock.now())
