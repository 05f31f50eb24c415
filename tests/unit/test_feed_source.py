"""The feed as one reader pulls it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from llmchatbot.services.feed import FeedSource

WHOLE_READ = 500


async def test_a_long_backlog_is_read_to_its_end_without_a_hint() -> None:
    """Each look at the database is bounded: one that came back full is followed by another at once."""
    stored = [str(number) for number in range(3 * WHOLE_READ + 7)]

    async def read(after: int) -> Sequence[str]:
        return stored[after + 1 : after + 1 + WHOLE_READ]

    source = FeedSource(uuid4(), 0, [], read)
    async with asyncio.timeout(1):
        while source.last < len(stored) - 1:
            await source.wait()
