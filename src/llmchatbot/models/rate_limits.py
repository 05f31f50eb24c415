"""Limits over time, and how far they are used up."""

from __future__ import annotations

import msgspec


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """At most `limit` in any `period` seconds. `policy` is the name that clients see."""

    policy: str
    limit: int
    period: float


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one attempt: `used` before it; `retry_after` in seconds until the oldest part stops counting."""

    allowed: bool
    used: int
    retry_after: float
