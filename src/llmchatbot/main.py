"""The web application: routes, the one door, problem documents, the outermost layer. Nothing happens at import."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Router
from litestar.exceptions import HTTPException

from llmchatbot.errors import AppError, RateLimited, Unavailable
from llmchatbot.handlers import (
    auth,
    chats,
    docs,
    feed,
    generations,
    health,
    messages,
    messages_list,
    metrics,
    models,
    pages,
    search,
    usage,
    users,
)
from llmchatbot.handlers.authentication import Door, principal_of
from llmchatbot.handlers.binding import FromScope, Parts
from llmchatbot.handlers.clients import caller_of, parse_networks
from llmchatbot.handlers.cors import parse_origins
from llmchatbot.handlers.docs import ApiDocument
from llmchatbot.handlers.inputs import JsonRequest
from llmchatbot.handlers.metrics import Figures, State
from llmchatbot.handlers.openapi import Document, make_document
from llmchatbot.handlers.outermost import Outermost
from llmchatbot.handlers.problems import handle_app_error, handle_http_exception, handle_unexpected
from llmchatbot.handlers.stream_responses import StreamOpener, handle_passing_trouble
from llmchatbot.wiring import Backend

_LARGEST_BODY = 256 * 1024

API_ROUTES = (
    *auth.ROUTES,
    *users.ROUTES,
    *chats.ROUTES,
    *messages_list.ROUTES,
    *messages.ROUTES,
    *generations.ROUTES,
    *feed.ROUTES,
    *search.ROUTES,
    *models.ROUTES,
    *usage.ROUTES,
)


def create_app(backend: Backend, figures: Figures | None = None) -> Litestar:
    """The routes on a backend that is started and ended by whoever calls this."""
    parts = _parts(backend, figures)
    handlers: dict[Any, Any] = {
        AppError: handle_app_error,
        Unavailable: handle_passing_trouble,
        RateLimited: handle_passing_trouble,
        HTTPException: handle_http_exception,
        Exception: handle_unexpected,
    }
    return Litestar(
        route_handlers=[
            Router("/api/v1", route_handlers=parts.bind_all(API_ROUTES)),
            *parts.bind_all((*health.ROUTES, *metrics.ROUTES, *docs.ROUTES, *pages.ROUTES)),
        ],
        before_request=Door(backend.accounts.auth, backend.request_limits),
        exception_handlers=handlers,
        request_class=JsonRequest,
        request_max_body_size=_LARGEST_BODY,
        openapi_config=None,
        logging_config=None,
    )


def create_asgi(backend: Backend) -> Outermost:
    """What the server runs: the application inside the layer that every answer passes."""
    server = backend.settings.server
    figures = Figures(_states(backend), token=server.metrics_token)
    backend.maker.on_paced = figures.observe_pace
    app: Any = create_app(backend, figures)
    return Outermost(
        app,
        body_timeout=server.read_timeout,
        route_timeout=server.request_timeout,
        cors=parse_origins(server.cors_origins),
        observe=figures.observe,
    )


def _states(backend: Backend) -> list[State]:
    database, writer = backend.database, backend.writer
    return [
        State(name="open_streams", help="Readers of this process.", read=lambda: len(backend.streams)),
        State(name="active_generations", help="Answers that this process makes.", read=lambda: len(backend.maker)),
        State(name="tails", help="Answers whose newest events are in memory.", read=lambda: len(backend.tails)),
        State(name="database_connections", help="Open connections of the pool.", read=lambda: database.size),
        State(name="database_connections_in_use", help="Connections handed out.", read=lambda: database.in_use),
        State(name="draining", help="1 while this process ends.", read=lambda: int(backend.node.draining)),
        State(name="rounds", help="Rounds of the writer.", read=lambda: writer.rounds, counts=True),
        State(
            name="events_waiting", help="Answers with events that wait for the next round.", read=lambda: writer.waiting
        ),
        State(name="events_stored", help="Events stored in rounds.", read=lambda: writer.events, counts=True),
    ]


def describe_api(backend: Backend) -> Document:
    """The OpenAPI document. Nothing of the backend is used but that it is there to be bound."""
    return _describe(_parts(backend, None))


def _describe(parts: Parts) -> Document:
    return make_document(parts.bind_all(API_ROUTES), parts.bind_all(health.ROUTES))


def _parts(backend: Backend, figures: Figures | None) -> Parts:
    of_process = {**_parts_of_process(backend), "figures": figures}
    parts = Parts(of_process=of_process, of_request=_parts_of_request(backend))
    of_process["api_document"] = ApiDocument(lambda: _describe(parts))
    return parts


def _parts_of_process(backend: Backend) -> dict[str, Any]:
    return {
        "auth_service": backend.accounts.auth,
        "user_service": backend.accounts.users,
        "device_session_service": backend.accounts.sessions,
        "chat_service": backend.chat_service,
        "search_service": backend.search_service,
        "message_service": backend.message_service,
        "generation_service": backend.generation_service,
        "feed_service": backend.feed_service,
        "health_service": backend.health_service,
        "usage_service": backend.usage_service,
        "request_limits": backend.request_limits,
        "gateway": backend.gateway,
        "web_files": pages.read_web_files(),
        "stream_opener": StreamOpener(backend.streams, backend.clock),
        "get_streams_enabled": backend.settings.stream.get_enabled,
    }


def _parts_of_request(backend: Backend) -> dict[str, FromScope]:
    networks = parse_networks(backend.settings.server.trusted_proxies)
    return {"principal": principal_of, "caller": lambda scope: caller_of(scope, networks)}
