"""Versions of a record as entity tags (RFC 9110 §8.8.3, §13.1.1)."""

from __future__ import annotations

import re

_STRONG = re.compile(r'"(\d{1,9})"', re.ASCII)


def etag_of(version: int) -> str:
    return f'"{version}"'


def versions_of(if_match: str | None) -> list[int] | None:
    """The versions that an If-Match header accepts; None when any will do.

    What is weak, malformed or not one of ours accepts nothing, so that the answer is 412 and not a lost update.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    # No tag of ours holds a comma.
    entries = (_STRONG.fullmatch(entry.strip()) for entry in if_match.split(","))
    return [int(entry[1]) for entry in entries if entry]
