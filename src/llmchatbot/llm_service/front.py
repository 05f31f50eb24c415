"""The LLM service's own HTTP server: both protocols, health, metrics, key, limits, drain. See docs/local-models.md."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from llmchatbot.llm_service.bodies import MAX_BODY, chat_request, generate_body
from llmchatbot.llm_service.machine import LOOPBACK
from llmchatbot.llm_service.metrics import Metrics
from llmchatbot.llm_service.outputs import CallerLeftError, NdjsonOutput, ObjectOutput, Output, SseOutput, refusal
from llmchatbot.llm_service.relay import ANSWER_TIME, EngineClient, RefusedError

logger = logging.getLogger(__name__)

BODY_TIME = 15.0
"""Seconds a caller has to send a body."""
NDJSON_PATH = "/api/v1/generate/stream"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What callers may know of the model."""

    name: str
    device: str
    slots: int
    context: int  # tokens of one conversation


class Front:
    """Build it inside the running loop."""

    def __init__(self, engine: EngineClient, about: About, *, key: str) -> None:
        """`key`: what callers must send as a bearer; empty: open to this machine only."""
        self._engine, self._about, self._key = engine, about, key.encode()
        self._metrics = Metrics(slots=about.slots)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def application(self) -> web.Application:
        """The routes on one screen."""
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._show_metrics)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post(NDJSON_PATH, self._generate)
        return application

    async def drain(self, timeout: float, hurry: asyncio.Event) -> bool:
        """Refuse new work, wait `timeout` seconds at most, or until `hurry`, for what is running; whether it ended."""
        self._draining = True
        waits = {asyncio.ensure_future(self._idle.wait()), asyncio.ensure_future(hurry.wait())}
        _, pending = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        return self._idle.is_set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path != "/health":
                self._require_key(request)
            return await handler(request)
        except RefusedError as refused:
            return refusal(refused, ndjson=request.path == NDJSON_PATH)
        except web.HTTPException as error:
            return refusal(_named(error), ndjson=request.path == NDJSON_PATH)

    def _require_key(self, request: web.Request) -> None:
        if not self._key:
            # A page that has pointed its own name at 127.0.0.1 sends that name here (DNS rebinding).
            if _host_name(request) not in LOOPBACK:
                raise RefusedError(403, "forbidden", "Without a key this service answers on localhost only.")
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._key):
            raise RefusedError(
                401, "invalid_api_key", "The API key is missing or wrong: send 'Authorization: Bearer <key>'."
            )

    async def _health(self, request: web.Request) -> web.StreamResponse:
        loaded = await self._engine.healthy()
        status = "draining" if self._draining else "ok" if loaded else "error"
        body = {"status": status, "model_loaded": loaded, "device": self._about.device, "model": self._about.name}
        return web.json_response(body, status=200 if status == "ok" else 503, headers={"Cache-Control": "no-store"})

    async def _show_metrics(self, request: web.Request) -> web.StreamResponse:
        page = self._metrics.render(busy=await self._engine.busy_slots(), waiting=self._engine.waiting)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        model = {
            "id": self._about.name,
            "object": "model",
            "created": 0,
            "owned_by": "llmchatbot",
            "context_length": self._about.context,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = generate_body(await self._body(request))
        return await self._answer(NdjsonOutput(request), body)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        chat = chat_request(await self._body(request))
        return await self._answer(SseOutput(request) if chat.stream else ObjectOutput(request), chat.body)

    async def _body(self, request: web.Request) -> bytes:
        if self._draining:
            raise RefusedError(503, "draining", "This service is shutting down.", retry_after=1)
        if request.content_type != "application/json":
            # Also keeps web pages out, which can send anything else here without being asked (CORS).
            raise RefusedError(415, "unsupported_media_type", "Send JSON: 'Content-Type: application/json'.")
        try:
            async with asyncio.timeout(BODY_TIME):
                return await request.read()
        except TimeoutError as error:
            raise RefusedError(408, "body_timeout", "The body did not arrive in time.") from error

    async def _answer(self, output: Output, body: dict[str, object]) -> web.StreamResponse:
        started = time.monotonic()
        self._running += 1
        self._idle.clear()
        outcome = "gone"  # what it stays when the caller leaves: this task is cancelled then
        try:
            response, outcome = await self._make(output, body)
        except CallerLeftError:
            return web.Response()
        else:
            return response
        finally:
            self._record(output, outcome, started)
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _make(self, output: Output, body: dict[str, object]) -> tuple[web.StreamResponse, str]:
        try:
            async with asyncio.timeout(ANSWER_TIME), self._engine.slot(output.keep_alive):
                await self._relay(output, body)
            return await output.finish(), "complete"
        except TimeoutError:
            refused = RefusedError(504, "timeout", "The answer took too long.")
        except RefusedError as error:
            refused = error
        return await output.fail(refused), refused.code

    async def _relay(self, output: Output, body: dict[str, object]) -> None:
        async with self._engine.completion(body) as stream:
            async for payloads in stream:
                if payloads:
                    await output.payloads(payloads)
                else:
                    await output.keep_alive()

    def _record(self, output: Output, outcome: str, started: float) -> None:
        seconds = time.monotonic() - started
        self._metrics.requests.labels(output.protocol, outcome).inc()
        self._metrics.seconds.labels(output.protocol).observe(seconds)
        self._metrics.tokens.labels("input").inc(output.input_tokens)
        self._metrics.tokens.labels("output").inc(output.output_tokens)
        if output.first_token_at is not None:
            self._metrics.first_token.observe(output.first_token_at - started)
        logger.info(
            "answer protocol=%s outcome=%s input_tokens=%d output_tokens=%d seconds=%.3f",
            output.protocol,
            outcome,
            output.input_tokens,
            output.output_tokens,
            seconds,
        )


def _host_name(request: web.Request) -> str:
    return urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""


def _named(error: web.HTTPException) -> RefusedError:
    """The web library's own refusals, in our words."""
    if error.status == 413:
        return RefusedError(413, "body_too_large", f"The body is larger than {MAX_BODY:,} bytes.")
    if error.status == 404:
        return RefusedError(404, "not_found", "There is nothing here.")
    if error.status == 405:
        return RefusedError(405, "method_not_allowed", "This address does not take this method.")
    return RefusedError(error.status, "error", error.reason)
