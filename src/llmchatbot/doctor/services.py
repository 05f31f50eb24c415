"""Whom it works with: Redis, and every model that is set up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from llmchatbot.config import Settings
from llmchatbot.doctor.rows import PATIENCE, Row, failure, fetched, shown
from llmchatbot.errors import ModelError, StartupError
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.llm_service.discovery import find_local_model
from llmchatbot.llm_service.engine import require_installed
from llmchatbot.llm_service.model_file import inspect

# What is asked of the models: by public name what is wrong with each, None where nothing is.
Ask = Callable[[ModelGateway], Awaitable[Mapping[str, ModelError | None]]]


async def examine_redis(settings: Settings) -> list[Row]:
    if not settings.redis.enabled:
        return [Row("ok", "Redis", "not configured; PostgreSQL does its work")]
    where = f"{settings.redis.host}:{settings.redis.port}/{settings.redis.db}"
    client = redis.asyncio.Redis(
        host=settings.redis.host,
        port=settings.redis.port,
        password=settings.redis.password or None,
        db=settings.redis.db,
        socket_connect_timeout=PATIENCE,
        socket_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await client.ping()
    except redis.exceptions.AuthenticationError as error:
        return [Row("fail", "Redis", f"{where}: {error}", "REDIS_PASSWORD=<the right one>")]
    except (redis.exceptions.RedisError, OSError) as error:
        detail = f"{where} does not answer: {str(error) or type(error).__name__}"
        return [Row("fail", "Redis", detail, "REDIS_HOST, REDIS_PORT; or leave REDIS_HOST empty")]
    finally:
        await client.aclose()
    return [Row("ok", "Redis", where)]


async def examine_models(settings: Settings, environment: Mapping[str, str], ask: Ask) -> list[Row]:
    """Every model that is set up is asked for with its key, so that a wrong one is found before a person meets it."""
    try:
        gateway = ModelGateway.from_settings(settings.model, environment)
    except StartupError as error:
        return [failure("Models", error)]
    try:
        rows = [_model_row(name, error) for name, error in (await ask(gateway)).items()]
        default = Row("ok", "Models", f"of those set up, {gateway.default_model()} answers a chat that names none")
    finally:
        await gateway.aclose()
    if settings.model.service_url:
        rows.insert(0, await _model_service(settings.model.service_url))
    if local := await asyncio.to_thread(_local_model, settings):
        return [*rows, *local]
    if rows:
        return [*rows, default]
    return [
        Row(
            "warn",
            "Models",
            "none is connected; the built-in guide answers from the documentation",
            "LLM_SERVICE_URL=http://localhost:5000, or OPENAI_API_KEY=…; see docs/models.md",
        )
    ]


def _local_model(settings: Settings) -> list[Row]:
    path = find_local_model(settings)
    if path is None:
        return []
    try:
        require_installed()
        found = inspect(path)
    except StartupError as error:
        return [failure("Local model", error)]
    return [Row("ok", "Local model", f"{found.path} is started with the program and answers first")]


def _model_row(name: str, error: ModelError | None) -> Row:
    if error is None:
        return Row("ok", f"Model {name}", "answers and takes our key")
    return Row("fail", f"Model {name}", f"{error.code}: {error.detail}", f"llmchatbot models test {name}")


async def _model_service(url: str) -> Row:
    subject, health = "Model service", url.rstrip("/") + "/health"
    where = shown(url)
    try:
        status, body = await fetched(health)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        detail = f"{where} does not answer: {str(error) or type(error).__name__}"
        return Row("fail", subject, detail, "start the model service, or LLM_SERVICE_URL=<where it is>")
    if status >= 500:
        return Row("warn", subject, f"{where} answers {status}", "look into the log of the model service")
    if b'"model_loaded":false' in body.replace(b" ", b""):
        return Row("warn", subject, f"{where} answers, its model is not loaded yet", "wait, or look into its log")
    return Row("ok", subject, f"{where} answers" + (f" ({status} on /health)" if status != 200 else ""))
