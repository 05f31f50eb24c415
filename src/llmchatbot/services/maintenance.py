"""What must be done now and then, by one process of all: partitions made ahead and dropped, expired rows removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg

from llmchatbot.clock import Clock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.repositories import idempotency, nodes, partitions, stream_tickets, user_events
from llmchatbot.services.batches import in_batches

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
        for name, clean in self._cleanings().items():
            try:
                await clean()
            except DatabaseUnavailable:
                # One that never gets done in time must not keep the others from their work.
                logger.warning("clean-up of %s goes on next time: the database did not do it in time", name)

    def _cleanings(self) -> dict[str, Callable[[], Awaitable[object]]]:
        database, now = self._database, self._clock.now()
        return {
            "idempotency keys": lambda: in_batches(partial(idempotency.forget_expired, database)),
            "stream tickets": lambda: in_batches(partial(stream_tickets.forget_expired, database, now)),
            "feeds": lambda: in_batches(partial(user_events.forget_old, database, self._feed_seconds)),
            "nodes": lambda: in_batches(partial(nodes.forget_old, database)),
            "events without a partition": self._clear_default,
            "accounts": self._more,
        }

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
        oldest_kept = self._oldest_kept()
        for hour in await partitions.hours(self._database):
            if hour < oldest_kept and not await partitions.in_use(self._database, hour, self._retention_seconds):
                try:
                    async with self._database.transaction() as transaction:
                        await partitions.drop(transaction, hour)
                except asyncpg.LockNotAvailableError:
                    logger.info("the log of hour %d is being read; it is dropped next time", hour)

    async def _clear_default(self) -> None:
        # A day: far longer than any answer and its retention.
        await in_batches(partial(partitions.clear_default, self._database, self._oldest_kept() - 24))

    def _oldest_kept(self) -> int:
        return self._hour() - int(self._retention_seconds // 3600) - 1

    def _hour(self) -> int:
        return partitions.hour_of(int(self._clock.now().timestamp() * 1000))
