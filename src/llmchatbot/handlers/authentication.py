"""The one door: every route but those marked `public` is asked for a bearer token here and nowhere else."""

from __future__ import annotations

import re
from typing import Any, Protocol
from urllib.parse import parse_qs

from litestar import Request, Response
from litestar.routes import HTTPRoute
from litestar.types import Scope

from llmchatbot.errors import TokenInUrl, Unauthenticated
from llmchatbot.handlers.deadlines import lift_deadline
from llmchatbot.models.principals import Principal

PUBLIC = {"public": True}
# A read stream of one generation may be opened with a ticket in the URL instead (protocol §7).
TICKET = {"ticket": True}
_FORBIDDEN_IN_URL = ("token", "access_token", "refresh_token", "authorization", "jwt")
# Names that could be one of these, or that are written so that only decoding tells.
_SUSPICIOUS_NAME = re.compile(rb"(?:^|[&;])[^=&;]*(?:%|\+|token|authorization|jwt)", re.IGNORECASE)


class Authenticator(Protocol):
    async def authenticate(self, token: str) -> Principal:
        """Raises InvalidToken."""
        ...


class RequestQuota(Protocol):
    def check_request(self, principal: Principal) -> None:
        """Raises RateLimited."""
        ...


class Door:
    """The application's `before_request`: the route is known, of the body nothing has been read yet.

    A hook and not a middleware, because each middleware brings two more layers of the framework, 20 µs a request.
    """

    def __init__(self, authenticator: Authenticator, limits: RequestQuota | None = None) -> None:
        self._authenticator = authenticator
        self._limits = limits

    async def __call__(self, request: Request[Any, Any, Any]) -> Response[None] | None:
        """None lets the handler answer. Raises TokenInUrl, Unauthenticated, InvalidToken, RateLimited."""
        scope = request.scope
        query = scope["query_string"]
        if query:
            refuse_tokens_in_url(query)
        options = scope["route_handler"].opt
        if "stream" in options:
            lift_deadline(scope)
        if "public" in options:
            return None
        if scope["method"] == "OPTIONS":
            return _methods_of(request)
        token = bearer_token(scope)
        if token is not None:
            principal = scope["user"] = await self._authenticator.authenticate(token)
            if self._limits is not None:
                self._limits.check_request(principal)
        elif not ("ticket" in options and b"ticket=" in query):
            raise Unauthenticated
        return None


def _methods_of(request: Request[Any, Any, Any]) -> Response[None]:
    """The framework's own answer to OPTIONS forgets methods of a path whose handlers were registered one by one."""
    template = request.scope["path_template"]
    routes = [route for route in request.app.routes if isinstance(route, HTTPRoute) and route.path_format == template]
    methods = sorted({str(method) for route in routes for method in route.methods})
    return Response(None, status_code=204, headers={"Allow": ", ".join(methods)})


def principal_of(scope: Any) -> Principal:
    """Who came through the door. Raises KeyError where nobody has to: a public handler must not ask."""
    principal: Principal = scope["user"]
    return principal


def refuse_tokens_in_url(query: bytes) -> None:
    """Raises TokenInUrl: addresses end in logs and histories (RFC 6750 §5.3)."""
    if _SUSPICIOUS_NAME.search(query):
        names = {name.lower() for name in parse_qs(query.decode("latin-1"), keep_blank_values=True)}
        if not names.isdisjoint(_FORBIDDEN_IN_URL):
            raise TokenInUrl


def bearer_token(scope: Scope) -> str | None:
    """None when there is no Authorization header. Raises Unauthenticated when there is one of another kind."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            if kind.lower() != "bearer" or not token.strip():
                raise Unauthenticated("The Authorization header must read 'Bearer <access token>'.")
            return token.strip()
    return None
