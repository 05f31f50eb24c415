"""The web application: routes, the one door, deadlines, problem documents. Nothing happens at import."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.openapi.config import OpenAPIConfig

from llmchatbot import __version__
from llmchatbot.errors import AppError
from llmchatbot.handlers import (
    auth,
    chats,
    feed,
    generations,
    health,
    messages,
    messages_list,
    models,
    pages,
    search,
    users,
)
from llmchatbot.handlers.authentication import AuthenticationMiddleware
from llmchatbot.handlers.clients import caller_provider
from llmchatbot.handlers.cors import parse_origins
from llmchatbot.handlers.deadlines import DeadlineMiddleware
from llmchatbot.handlers.outermost import Outermost
from llmchatbot.handlers.problems import handle_app_error, handle_http_exception, handle_unexpected
from llmchatbot.handlers.stream_responses import StreamOpener
from llmchatbot.models.principals import Principal
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
)


def create_app(backend: Backend) -> Litestar:
    """An ASGI application on a backend that is started and ended by whoever calls this."""
    settings = backend.settings
    handlers: dict[Any, Any] = {
        AppError: handle_app_error,
        HTTPException: handle_http_exception,
        Exception: handle_unexpected,
    }
    return Litestar(
        route_handlers=[Router("/api/v1", route_handlers=[*API_ROUTES]), *health.ROUTES, *pages.ROUTES],
        middleware=[
            DefineMiddleware(
                DeadlineMiddleware,
                body_timeout=settings.server.read_timeout,
                route_timeout=settings.server.request_timeout,
            ),
            DefineMiddleware(
                AuthenticationMiddleware, authenticator=backend.accounts.auth, limits=backend.request_limits
            ),
        ],
        exception_handlers=handlers,
        dependencies=_dependencies(backend),
        request_max_body_size=_LARGEST_BODY,
        openapi_config=OpenAPIConfig(title="llmchatbot", version=__version__, path="/docs"),
        logging_config=None,
        state=State({"backend": backend}),
    )


def create_asgi(backend: Backend) -> Outermost:
    """What the server runs: the application inside the layer that every answer passes."""
    server = backend.settings.server
    return Outermost(create_app(backend), cors=parse_origins(server.cors_origins))


def _dependencies(backend: Backend) -> dict[str, Provide]:
    parts: dict[str, Any] = {
        "auth_service": backend.accounts.auth,
        "user_service": backend.accounts.users,
        "device_session_service": backend.accounts.sessions,
        "chat_service": backend.chat_service,
        "search_service": backend.search_service,
        "message_service": backend.message_service,
        "generation_service": backend.generation_service,
        "feed_service": backend.feed_service,
        "health_service": backend.health_service,
        "request_limits": backend.request_limits,
        "gateway": backend.gateway,
        "web_files": pages.read_web_files(),
        "stream_opener": StreamOpener(backend.streams, backend.clock),
        "get_streams_enabled": backend.settings.stream.get_enabled,
    }
    provided = {name: _always(part) for name, part in parts.items()}
    provided["principal"] = Provide(_principal, sync_to_thread=False)
    provided["caller"] = Provide(caller_provider(backend.settings.server.trusted_proxies), sync_to_thread=False)
    return provided


def _always(part: Any) -> Provide:
    def provide() -> Any:
        return part

    return Provide(provide, sync_to_thread=False)


def _principal(request: Request[Principal, Any, Any]) -> Principal:
    return request.user
