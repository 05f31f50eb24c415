"""Ids: UUIDv7 (RFC 9562 §5.7), made here because PostgreSQL below 18 cannot make them."""

from __future__ import annotations

import os
import threading
import time
import uuid

_RANDOM_BITS = 74


class IdFactory:
    """Strictly rising ids within one process, safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> uuid.UUID:
        """48 bits of Unix milliseconds, then 74 random bits that count up within one millisecond (RFC 9562 §6.2)."""
        with self._lock:
            milliseconds = time.time_ns() // 1_000_000
            if milliseconds > self._last >> _RANDOM_BITS:
                # The top random bit starts at zero: room to count up without touching the time.
                start = int.from_bytes(os.urandom(10), "big") & ((1 << (_RANDOM_BITS - 1)) - 1)
                self._last = milliseconds << _RANDOM_BITS | start
            else:
                self._last += 1 + int.from_bytes(os.urandom(4), "big")
            value = self._last
        time_and_version = value >> _RANDOM_BITS << 80 | 7 << 76
        return uuid.UUID(int=time_and_version | (value >> 62 & 0xFFF) << 64 | 2 << 62 | value & (1 << 62) - 1)


new_id = IdFactory()


def time_floor(milliseconds: int) -> uuid.UUID:
    """The smallest UUIDv7-shaped value of a moment, in Unix milliseconds: a boundary between ranges of ids."""
    return uuid.UUID(int=milliseconds << 80)


def milliseconds_of(identifier: uuid.UUID) -> int:
    """The Unix milliseconds in which a UUIDv7 was made."""
    return identifier.int >> 80
