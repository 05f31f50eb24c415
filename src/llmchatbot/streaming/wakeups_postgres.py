"""Wake-ups by LISTEN and NOTIFY: what every installation has.

NOTIFY takes a lock of the whole instance at commit, so it is sent per round and never inside the transaction that
stores events (reliability notes: 848 against 2,591 commits a second).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from llmchatbot.database.address import Address
from llmchatbot.database.pool import connect, translate
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.repositories.executor import Executor
from llmchatbot.streaming.wakeups import Subscriptions

logger = logging.getLogger(__name__)

_CHANNEL = "llmchatbot"
# PostgreSQL refuses payloads of 8,000 bytes and more.
LONGEST_PAYLOAD = 7900
_CHECK_SECONDS = 5.0


class PostgresWakeUps(Subscriptions):
    """`run` listens on a connection of its own and connects again for ever; meanwhile hints are lost, as is allowed."""

    def __init__(self, address: Address, executor: Executor) -> None:
        super().__init__()
        self._address = address
        self._executor = executor
        self.listening = asyncio.Event()

    async def publish(self, topic: str, payload: str) -> None:
        try:
            await self._executor.execute("SELECT pg_notify($1, $2)", _CHANNEL, f"{topic}|{payload}")
        except DatabaseUnavailable:
            logger.info("a wake-up of kind %s was lost: the database is away", topic)

    async def run(self) -> None:
        """Returns when the connection is lost; whoever keeps this loop starts it again."""
        with translate():
            connection = await connect(self._address, application_name="llmchatbot wake-ups")
            try:
                await connection.add_listener(_CHANNEL, self._receive)
                self.listening.set()
                while not connection.is_closed():
                    # A peer that vanished without a word is noticed by asking.
                    await asyncio.sleep(_CHECK_SECONDS)
                    await connection.fetchval("SELECT 1", timeout=_CHECK_SECONDS)
            finally:
                self.listening.clear()
                await connection.close(timeout=1)

    def _receive(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        topic, _, rest = str(payload).partition("|")
        self.deliver(topic, rest)
