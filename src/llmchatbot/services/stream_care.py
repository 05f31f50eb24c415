"""Once a second, for all open streams: heartbeats, deadlines, and an end for devices that were logged out."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from llmchatbot.clock import Clock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.repositories import device_sessions
from llmchatbot.streaming import wakeups
from llmchatbot.streaming.followers import Watchers
from llmchatbot.streaming.streams import OpenStreams
from llmchatbot.streaming.tails import Tails
from llmchatbot.streaming.wakeups import WakeUps

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
# Revocation closes streams within five seconds, also when its wake-up was lost.
_SESSIONS_EVERY = 4
_KEEP_ENDED_SECONDS = 15.0


class StreamCare:
    def __init__(
        self,
        *,
        database: Database,
        streams: OpenStreams,
        tails: Tails,
        watchers: Watchers,
        wakeups: WakeUps,
        clock: Clock,
    ) -> None:
        self._database = database
        self._streams = streams
        self._tails = tails
        self._watchers = watchers
        self._wakeups = wakeups
        self._clock = clock

    def start(self) -> None:
        self._wakeups.subscribe(wakeups.SESSION_REVOKED, lambda payload: self._streams.close_session(UUID(payload)))

    async def run(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            ticks += 1
            self._streams.tick()
            self._tails.sweep(self._clock.monotonic(), keep=_KEEP_ENDED_SECONDS)
            self._watchers.sweep()
            if ticks % _SESSIONS_EVERY == 0:
                await self._close_revoked()

    async def _close_revoked(self) -> None:
        sessions = self._streams.session_ids()
        if not sessions:
            return
        try:
            for session_id in await device_sessions.ended_among(self._database, list(sessions), self._clock.now()):
                self._streams.close_session(session_id)
        except DatabaseUnavailable:
            logger.info("open streams could not be checked against their devices: the database is away")
