"""What must be done now and then, by one process of all: partitions made ahead and dropped, expired rows removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from llmchatbot.clock import Clock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.repositories import idempotency, nodes, partitions, stream_tickets, user_events

logger = logging.getLogger(__name__)

_PERIOD_SECONDS = 300.0
_HOURS_AHEAD = 3
# Any number; it only has to be ours alone.
_LOCK = 0x6C6C6D63


class MaintenanceService:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        retention_seconds: float,
        feed_seconds: float = 86_400.0,
        more: Callable[[], Awaitable[object]],
    ) -> None:
        """`more` is what other services have to clean up themselves."""
        self._database = database
        self._clock = clock
        self._retention_seconds = retention_seconds
        self._feed_seconds = feed_seconds
        self._more = more

    async def run(self) -> None:
        while True:
            try:
                await self.once()
            except DatabaseUnavailable:
                logger.info("maintenance waits: the database is away")
            await asyncio.sleep(_PERIOD_SECONDS)

    async def once(self) -> None:
        """Nothing happens while another process is at it."""
        async with self._database.transaction() as transaction:
            if not await transaction.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return
            await self.make_partitions()
            await self.drop_partitions()
        now = self._clock.now()
        await idempotency.forget_expired(self._database)
        await stream_tickets.forget_expired(self._database, now)
        await user_events.forget_old(self._database, self._feed_seconds)
        await nodes.forget_old(self._database)
        await self._more()

    async def make_partitions(self) -> None:
        """This hour and the next ones; what arrives without a partition is caught by the default one."""
        present = self._hour()
        existing = set(await partitions.hours(self._database))
        for hour in range(present, present + _HOURS_AHEAD + 1):
            if hour not in existing:
                try:
                    async with self._database.transaction() as transaction:
                        await partitions.create(transaction, hour)
                except asyncpg.LockNotAvailableError:
                    logger.info("the log is being read; the partition of hour %d is made next time", hour)
                except (asyncpg.CheckViolationError, asyncpg.InvalidObjectDefinitionError):
                    # Rows of this hour lie in the default partition already, so the hour stays there.
                    logger.info("the log of hour %d stays in the default partition", hour)

    async def drop_partitions(self) -> None:
        oldest_kept = self._hour() - int(self._retention_seconds // 3600) - 1
        for hour in await partitions.hours(self._database):
            if hour < oldest_kept and not await partitions.in_use(self._database, hour, self._retention_seconds):
                try:
                    async with self._database.transaction() as transaction:
                        await partitions.drop(transaction, hour)
                except asyncpg.LockNotAvailableError:
                    logger.info("the log of hour %d is being read; it is dropped next time", hour)
        # A day: far longer than any answer and its retention.
        await partitions.clear_default(self._database, oldest_kept - 24)

    def _hour(self) -> int:
        return partitions.hour_of(int(self._clock.now().timestamp() * 1000))
