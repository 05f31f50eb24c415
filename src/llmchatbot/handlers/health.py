"""Liveness in the shape that the first client knows, and readiness for whoever sends traffic."""

from __future__ import annotations

import msgspec
from litestar import Response, get, head
from litestar.di import NamedDependency

from llmchatbot import SERVICE, __version__
from llmchatbot.handlers.authentication import PUBLIC
from llmchatbot.services.health import HealthService, Readiness


class HealthBody(msgspec.Struct, kw_only=True, frozen=True):
    status: str
    service: str
    version: str


@get("/health", opt=PUBLIC, summary="Is the process alive", operation_id="health")
async def health() -> HealthBody:
    """Answers while the event loop turns, whatever else is wrong."""
    return HealthBody(status="healthy", service=SERVICE, version=__version__)


@head("/health", opt=PUBLIC, include_in_schema=False)
async def health_head() -> None:
    """For monitors that ask like this."""


@get(
    "/health/ready",
    opt=PUBLIC,
    summary="Should this process be sent requests",
    operation_id="ready",
    description="503 when the database, its schema or a drain stands in the way; models are only `degraded`.",
)
async def ready(health_service: NamedDependency[HealthService]) -> Response[Readiness]:
    readiness = await health_service.readiness()
    return Response(readiness, status_code=200 if readiness.ready else 503, headers={"Cache-Control": "no-store"})


ROUTES = (health, health_head, ready)
