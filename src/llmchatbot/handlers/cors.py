"""Cross-origin rules: only for the origins of CORS_ORIGINS, only with a bearer header, never with cookies."""

from __future__ import annotations

from litestar.types import Scope, Send

from llmchatbot.errors import StartupError

_METHODS = b"GET, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = (
    b"Authorization, Content-Type, Accept, If-Match, If-None-Match, Idempotency-Key, Last-Event-ID, X-Request-Id"
)
# A script sees only what stands here (Fetch §3.3.2).
_EXPOSED = (
    b"ETag, Link, Location, Retry-After, RateLimit, RateLimit-Policy, Idempotency-Replayed, X-Generation-Id, "
    b"X-Request-Id, WWW-Authenticate"
)
_PREFLIGHT_SECONDS = b"600"


class CorsRules:
    """Origins as they stand in the header: scheme, host, port unless it is the scheme's own."""

    def __init__(self, origins: frozenset[bytes]) -> None:
        self._origins = origins

    def headers_for(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        ]

    def is_preflight(self, scope: Scope, origin: bytes) -> bool:
        return bool(origin) and any(name == b"access-control-request-method" for name, _ in scope["headers"])

    async def answer_preflight(self, send: Send) -> None:
        """The same for all origins; whether one may is said by the header that `headers_for` adds or leaves out."""
        headers = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def parse_origins(text: str) -> CorsRules | None:
    """None when there are none. Raises StartupError naming what is no origin."""
    origins = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    for origin in origins:
        scheme, separator, rest = origin.partition("://")
        if scheme not in {"http", "https"} or not separator or not rest or "/" in rest or "*" in rest:
            raise StartupError(f"CORS_ORIGINS: '{origin}' is no origin such as https://chat.example.com")
    return CorsRules(frozenset(origin.lower().encode() for origin in origins)) if origins else None
