"""What the head of a request says, and what is wrong with one that says nothing."""

from __future__ import annotations

import httptools

from llmchatbot.errors import AppError, InvalidInput, MethodNotAllowed
from llmchatbot.http_server.exchange import Headers

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def size_of(target: bytes, headers: Headers) -> int:
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target, also of the absolute form. Raises InvalidInput."""
    if not target.startswith(b"/") or b"#" in target:
        try:
            parsed = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            if target == b"*":
                return b"*", b""
            raise InvalidInput("The address is none.") from None
        return parsed.path or b"/", parsed.query or b""
    path, _, query = target.partition(b"?")
    return path, query


def cause_of(error: Exception, data: bytes) -> AppError:
    """What a callback of ours raised, else that it is no HTTP; TLS, for one, begins with no letter."""
    if isinstance(error, httptools.HttpParserInvalidMethodError) and data[:1].isalpha():
        return MethodNotAllowed(headers={"Allow": _METHODS})
    cause = error.__context__
    return cause if isinstance(cause, AppError) else InvalidInput("This is not a request of HTTP/1.1.")
