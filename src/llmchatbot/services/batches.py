"""Clean-up in small statements: however much has piled up, none holds locks for long or runs into the time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

BATCH = 500
# Between two statements, so that others get their turn at the connections and the disk.
_PAUSE_SECONDS = 0.01

Clean = Callable[[int], Awaitable[int]]


async def in_batches(clean: Clean, size: int = BATCH) -> int:
    """Call `clean(size)`, which removes so many at most and says how many, until it finds fewer; how many in all."""
    total = 0
    while True:
        count = await clean(size)
        total += count
        if count < size:
            return total
        await asyncio.sleep(_PAUSE_SECONDS)
