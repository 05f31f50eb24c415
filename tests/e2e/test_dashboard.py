"""The shipped Grafana dashboard asks for figures that a node has."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import aiohttp
from nodes import Node, Person

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana-dashboard.json"


async def test_every_figure_of_the_dashboard_exists(node: Node, person: Person) -> None:
    await person.events(await person.start(await person.chat(), "[[rate=100 tokens=5]]"))
    asked = set(re.findall(r"(llmchatbot_\w+)[{,]", DASHBOARD.read_text(encoding="utf-8")))
    assert len(asked) > 10
    missing = asked
    deadline = time.monotonic() + 5
    async with aiohttp.ClientSession() as session:
        # An answer is counted just after its reader has its end.
        while missing and time.monotonic() < deadline:
            async with session.get(f"{node.base}/metrics") as response:
                missing = asked - set(re.findall(r"^(llmchatbot_\w+)", await response.text(), re.MULTILINE))
            await asyncio.sleep(0.05)
    assert not missing
