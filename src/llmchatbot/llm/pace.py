"""Give out pieces at a rate, all that are due in one batch: a late timer then costs nothing but evenness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

_BURST = 64


async def paced(pieces: Iterable[str], rate: float, first: float = 0.0) -> AsyncGenerator[list[str], None]:
    """Yield `pieces` in batches, `rate` a second (0: as fast as it goes), the first one after `first` seconds."""
    if first > 0:
        await asyncio.sleep(first)
    loop = asyncio.get_running_loop()
    started = loop.time()
    given = 0
    batch: list[str] = []
    for piece in pieces:
        batch.append(piece)
        if rate <= 0:
            if len(batch) >= _BURST:
                yield batch
                batch = []
                await asyncio.sleep(0)
            continue
        due = started + (given + len(batch)) / rate
        if due <= loop.time():
            continue
        yield batch
        given += len(batch)
        batch = []
        await asyncio.sleep(due - loop.time())
    if batch:
        yield batch
