"""Versions of a record as entity tags (RFC 9110 §8.8.3, §13.1.1)."""

from __future__ import annotations

import re

_ENTRY = re.compile(r'\s*(W/)?"([^"]*)"\s*(?:,|$)')
_VERSION = re.compile(r"\d{1,9}", re.ASCII)


def etag_of(version: int) -> str:
    return f'"{version}"'


def versions_of(if_match: str | None) -> list[int] | None:
    """The versions that an If-Match header accepts; None when any will do.

    What is weak, malformed or not one of ours accepts nothing, so that the answer is 412 and not a lost update.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return [int(tag) for weak, tag in _ENTRY.findall(if_match) if not weak and _VERSION.fullmatch(tag)]
