"""The one door: every route but those marked `public` is asked for a bearer token here and nowhere else."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import parse_qs

from litestar.types import ASGIApp, Receive, Scope, Send

from llmchatbot.errors import TokenInUrl, Unauthenticated
from llmchatbot.models.principals import Principal

PUBLIC = {"public": True}
# A read stream of one generation may be opened with a ticket in the URL instead (protocol §7).
TICKET = {"ticket": True}
_FORBIDDEN_IN_URL = ("token", "access_token", "refresh_token", "authorization", "jwt")


class Authenticator(Protocol):
    async def authenticate(self, token: str) -> Principal:
        """Raises InvalidToken."""
        ...


class RequestQuota(Protocol):
    def check_request(self, principal: Principal) -> None:
        """Raises RateLimited."""
        ...


class AuthenticationMiddleware:
    """Pure ASGI, below the router: it sees which route was matched and decides on that alone."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, limits: RequestQuota | None = None) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"")
        if query and b"=" in query:
            refuse_tokens_in_url(query)
        options = scope["route_handler"].opt
        if not options.get("public"):
            token = bearer_token(scope)
            if token is not None:
                principal = scope["user"] = await self._authenticator.authenticate(token)
                if self._limits is not None:
                    self._limits.check_request(principal)
            elif not (options.get("ticket") and b"ticket=" in query):
                raise Unauthenticated
        await self._app(scope, receive, send)


def refuse_tokens_in_url(query: bytes) -> None:
    """Raises TokenInUrl: addresses end in logs and histories (RFC 6750 §5.3)."""
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
