"""Headers that no answer may lack. A route that has its own word (the page, the documentation) keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]

# JSON and streams are never documents: nothing may be loaded by one, and nobody may frame one.
_DEFAULTS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


def with_security_headers(headers: Iterable[tuple[bytes, bytes]], more: Headers) -> Headers:
    """`headers` first; of the defaults only what is not there yet; then `more`."""
    present = dict(headers)
    return [*headers, *(default for default in _DEFAULTS if default[0] not in present), *more]
