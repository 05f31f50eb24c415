"""What a load process is told, and what it tells back: one JSON document each way."""

from __future__ import annotations

import msgspec


class Target(msgspec.Struct, frozen=True):
    """Who asks where: one chat of one account."""

    path: str
    authorization: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One load. Times are seconds of the monotonic clock, shared by all processes of the machine."""

    mode: str
    """answers · readers · storm · idle · requests"""
    port: int
    stamps: str = ""
    """Path of the file in which the source writes when it said what (all modes but requests)."""
    targets: list[Target]
    rate: int = 50
    tokens: int = 300
    staggered: bool = True
    """The first answers are of all lengths, so that some begin and end at any time, as after hours (mode answers)."""
    start: float
    ramp: float = 2.0
    window_from: float
    window_to: float
    deadline: float
    """Nothing is awaited beyond it, whatever happens."""
    readers: int = 0
    """Further readers of each answer (mode readers), or of each silent answer (mode idle)."""
    cut_at: float = 0.0
    """When all streams are cut at once (mode storm)."""
    connections: int = 4
    """Keep-alive connections that ask as fast as they are answered (mode requests)."""
    body: str = ""
    """Of each request (mode requests); empty: GET."""
    pause: float = 0.0
    """Seconds between two requests of one connection (mode requests)."""


class Spread(msgspec.Struct, frozen=True):
    """Quantiles of one quantity, in milliseconds."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    worst: float = 0.0
    count: int = 0


class Outcome(msgspec.Struct, kw_only=True):
    """What happened, as seen by the load process."""

    tokens: int = 0
    """Tokens that arrived within the window."""
    answers: int = 0
    """Answers that ended within the window."""
    opened: int = 0
    complete: int = 0
    """Answers whose tokens and whose final text both had every token, in order."""
    incomplete: int = 0
    errors: dict[str, int] = {}
    delay: Spread = Spread()
    """Stamp at the source to arrival at the reader."""
    first_token: Spread = Spread()
    """Request sent to first token here, of answers asked for within the window."""
    recovery: Spread = Spread()
    """Cut to the next new token (mode storm)."""
    latency: Spread = Spread()
    """Request to whole response (mode requests)."""
    fairness: float = 0.0
    """Most tokens of one stream within the window, divided by the fewest."""
    cpu: float = 0.0
    """Seconds of processor time this process needed itself."""
