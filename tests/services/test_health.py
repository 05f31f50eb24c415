"""Readiness is asked for by anybody and often: what it costs others is bounded."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from llmchatbot.database.pool import Database
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.services import health
from llmchatbot.services.health import HealthService


class Provider:
    """A gateway whose default model answers, or does not."""

    def __init__(self) -> None:
        self.questions = 0
        self.well = True

    def default_model(self) -> str:
        return "m"

    async def health(self) -> dict[str, bool]:
        self.questions += 1
        await asyncio.sleep(0.01)
        return {"m": self.well}


async def test_a_provider_is_asked_once_however_often_readiness_is(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key of a paid provider, whoever found the address could use up its rate limit for us."""
    provider = Provider()
    service = HealthService(database=db, gateway=cast("ModelGateway", provider), draining=lambda: False, listening={})
    readings = await asyncio.gather(*(service.readiness() for _ in range(20)))
    assert {reading.parts["model"] for reading in readings} == {"ok"}
    assert provider.questions == 1
    provider.well = False
    assert (await service.readiness()).parts["model"] == "ok"
    monkeypatch.setattr(health, "_MODEL_REMEMBERED", 0.0)
    service._ask_again = 0.0
    reading = await service.readiness()
    assert (reading.ready, reading.parts["model"]) == (True, "degraded")
    assert provider.questions == 2
