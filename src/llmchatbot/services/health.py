"""Whether this process lives, and whether it should be sent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from llmchatbot.database import migrations
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.llm.gateway import ModelGateway

State = Literal["ok", "degraded", "failed"]
_MODEL_SECONDS = 3.0
# Anybody may ask whether we are ready, and balancers ask each second: providers are not asked as often.
_MODEL_REMEMBERED = 10.0


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`failed` parts make the whole not ready; `degraded` ones only say so."""

    ready: bool
    parts: dict[str, State]


class HealthService:
    def __init__(
        self,
        *,
        database: Database,
        gateway: ModelGateway,
        draining: Callable[[], bool],
        listening: Mapping[str, asyncio.Event],
    ) -> None:
        """`listening`: which connections hints come over; without them events are only later."""
        self._database = database
        self._gateway = gateway
        self._draining = draining
        self._listening = listening
        self._asking = asyncio.Lock()
        self._model: State = "ok"
        self._ask_again = 0.0

    async def readiness(self) -> Readiness:
        """PostgreSQL, its schema and draining decide; models and wake-ups are only told."""
        parts: dict[str, State] = {}
        parts["database"], parts["schema"] = await self._database_state()
        parts["draining"] = "failed" if self._draining() else "ok"
        for name, event in self._listening.items():
            parts[name] = "ok" if event.is_set() else "degraded"
        parts["model"] = await self._model_state()
        return Readiness(ready="failed" not in parts.values(), parts=parts)

    async def _database_state(self) -> tuple[State, State]:
        try:
            async with self._database.acquire() as connection:
                current, expected = await migrations.schema_state(connection)
        except DatabaseUnavailable:
            return "failed", "failed"
        # During a deploy the old program runs on the new schema; were it not ready then, nobody would be.
        return "ok", "ok" if current >= expected else "failed"

    async def _model_state(self) -> State:
        """As it was some seconds ago at the most; whoever asks meanwhile waits for the one question."""
        async with self._asking:
            time = asyncio.get_running_loop().time
            if time() >= self._ask_again:
                self._model = await self._ask_model()
                self._ask_again = time() + _MODEL_REMEMBERED
            return self._model

    async def _ask_model(self) -> State:
        """`degraded` when the default model does not answer: chats can still be read."""
        try:
            async with asyncio.timeout(_MODEL_SECONDS):
                health = await self._gateway.health()
        except TimeoutError:
            return "degraded"
        return "ok" if health.get(self._gateway.default_model(), False) else "degraded"
