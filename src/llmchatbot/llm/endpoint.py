"""Where an upstream lives and with which key: the key is bound to its origin and never printed."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from llmchatbot.errors import ModelMisconfigured

DEFAULT_PORTS = {"http": 80, "https": 443}


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds (protocol §6). `chunk` is the silence between two pieces, `whole` the whole call."""

    connect: float = 5.0
    first_byte: float = 60.0
    chunk: float = 30.0
    whole: float = 600.0


class Secret(str):
    """A key. Its repr is blank, so that no log line, traceback or settings dump shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('…')" if self else "Secret('')"


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454 §4). Raises ValueError when `url` is not an absolute HTTP URL."""
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("begins with http:// or https:// and names a host")
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream's address, key and time limits, and the names of the settings that a message may point at."""

    url: str
    key: Secret = Secret()
    key_setting: str = ""
    url_setting: str = "LLM_SERVICE_URL"
    headers: dict[str, str] = {}
    limits: TimeLimits = TimeLimits()
    keep_alive: bool = True
    """Whether a connection serves another call. One that the server closes without saying so, as llama.cpp does after
    each stream, costs no call: the request is sent once more, on a new one."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def join(self, path: str) -> str:
        """Append `path` to the base URL, keeping the base's query (Azure has its api-version there)."""
        base, mark, query = self.url.partition("?")
        return f"{base.rstrip('/')}/{path}{mark}{query}"

    def require_own_origin(self, url: str) -> None:
        """Raises ModelMisconfigured when `url` leads elsewhere than this endpoint: its key must not travel there."""
        if origin_of(url) != origin_of(self.url):
            raise ModelMisconfigured(f"A call would have left the origin of {self.url_setting}; it was not made.")
