"""One call of an upstream as bytes, and what to say when it comes to nothing."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

import msgspec

from llmchatbot.errors import ModelInterrupted, ModelMisconfigured, ModelProtocolError, ModelUnavailable
from llmchatbot.llm.endpoint import DEFAULT_PORTS, Endpoint

_log = logging.getLogger(__name__)

_NOT_IN_HEADERS = re.compile(r"[\x00-\x1f\x7f]|[^\x00-\xff]")

Origin = tuple[str, str, int]
"""Scheme, host, port."""


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an endpoint."""

    endpoint: Endpoint
    url: str
    headers: dict[str, str]
    body: bytes = b""
    method: str = "POST"

    @property
    def all_headers(self) -> dict[str, str]:
        """Ours first, then what the operator and the protocol want."""
        return {"Accept-Encoding": "identity", "User-Agent": "llmchatbot", **self.endpoint.headers, **self.headers}


def interrupted() -> ModelInterrupted:
    return ModelInterrupted("The connection to the model broke off before the answer's end.")


def not_http(endpoint: Endpoint) -> ModelProtocolError:
    return ModelProtocolError(f"What answers at {endpoint.url_setting} does not speak HTTP.")


def unreachable(endpoint: Endpoint, error: Exception | None = None) -> ModelUnavailable:
    _log.warning("upstream unreachable host=%s error=%s", endpoint.host, type(error).__name__ if error else "closed")
    return ModelUnavailable(
        f"The model's service cannot be reached; is it running, and is {endpoint.url_setting} right?"
    )


def bytes_of(request: HttpRequest, origin: Origin) -> bytes:
    """The request as it is sent. Raises ModelMisconfigured for a header that would be two."""
    parts = urlsplit(request.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    scheme, host, port = origin
    host = f"[{host}]" if ":" in host else host
    authority = host if port == DEFAULT_PORTS[scheme] else f"{host}:{port}"
    headers = {"Host": authority, **request.all_headers}
    if request.body or request.method == "POST":
        headers["Content-Length"] = str(len(request.body))
    if not request.endpoint.keep_alive:
        headers["Connection"] = "close"
    for name, value in headers.items():
        if _NOT_IN_HEADERS.search(name + value):
            raise ModelMisconfigured(f"The header {name} holds a line break or a letter that headers cannot have.")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + request.body
