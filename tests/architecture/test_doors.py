"""Every route passes the one door, and those that let anybody in are on a list here."""

from __future__ import annotations

from litestar.routes import HTTPRoute
from unopened import unopened_backend

from llmchatbot import main
from llmchatbot.handlers.authentication import Door

PUBLIC = {
    *("/api/v1/auth/register", "/api/v1/auth/login", "/api/v1/auth/guest", "/api/v1/auth/refresh"),
    *("/api/v1/auth/logout", "/health", "/health/ready", "/metrics", "/openapi.json", "/docs", "/", "/favicon.ico"),
    "/assets/{path}",
}


def test_every_route_has_the_door_unless_it_is_marked_public() -> None:
    app = main.create_app(unopened_backend())
    open_routes = set()
    for route in app.routes:
        assert isinstance(route, HTTPRoute), f"{route.path}: only HTTP routes pass the door"
        for handler in route.route_handlers:
            # The hook nearest to a handler wins: none but the application may have one.
            assert isinstance(handler.resolve_before_request(), Door), route.path
            if handler.opt.get("public"):
                open_routes.add(route.path_format)
    assert open_routes == PUBLIC


def test_nothing_is_injected_for_each_request() -> None:
    """Two injected names cost a task group: more than the whole way through the framework."""
    app = main.create_app(unopened_backend())
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            assert not handler.resolve_dependencies(), route.path
