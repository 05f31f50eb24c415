"""Figures for whoever watches: by route, never by person, and not for the world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from nodes import Node, Person

StartNode = Callable[..., Awaitable[Node]]


async def scrape(node: Node, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{node.base}/metrics", headers=headers) as response:
        return response.status, await response.text()


async def falls_to_zero(node: Node, figure: str) -> bool:
    """The last event is waited for by the reader, not by the round that looks at the answer once more."""
    for _ in range(100):
        _, text = await scrape(node)
        if f"{figure} 0.0" in text:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_requests_are_counted_by_route_and_nobody_is_named(person: Person) -> None:
    chat = await person.chat()
    await person.events(await person.start(chat, "[[rate=0 tokens=5]] canary-text"))
    status, text = await scrape(person.node)
    assert status == 200
    assert 'llmchatbot_requests_total{method="POST",route="/api/v1/chats/{chat_id}/messages",status="201"}' in text
    assert "llmchatbot_events_stored_total" in text
    assert await falls_to_zero(person.node, "llmchatbot_active_generations")
    _, text = await scrape(person.node)  # an answer is counted a moment after its reader has its end
    assert 'llmchatbot_generations_total{model="scripted",status="completed"}' in text
    assert 'llmchatbot_first_token_seconds_count{model="scripted"}' in text
    assert 'llmchatbot_tokens_per_second_count{model="scripted"}' in text
    assert await falls_to_zero(person.node, "llmchatbot_events_waiting")
    assert "llmchatbot_process_resident_memory_bytes" in text
    assert chat not in text
    assert "canary" not in text


async def test_the_kind_of_text_is_named_once(person: Person) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{person.node.base}/metrics") as response:
        kind = response.headers["Content-Type"]
    assert kind.startswith("text/plain; version=")
    assert kind.count("charset=utf-8") == 1


async def test_behind_a_proxy_nobody_may_read_them(person: Person) -> None:
    assert (await scrape(person.node, **{"X-Forwarded-For": "203.0.113.7"}))[0] == 404


async def test_token_opens_them_and_nothing_else_does(start_node: StartNode) -> None:
    node = await start_node(METRICS_TOKEN="a token for the watcher")
    assert (await scrape(node))[0] == 404
    assert (await scrape(node, Authorization="Bearer wrong"))[0] == 404
    assert (await scrape(node, Authorization="Bearer a token for the watcher"))[0] == 200


async def test_what_a_caller_makes_up_becomes_no_figure(person: Person) -> None:
    for method in ("BREW", "FETCH"):
        async with person.session.request(method, f"{person.node.base}/api/v1/made-up-{method}") as response:
            assert response.status in {404, 405}
    _, text = await scrape(person.node)
    assert "made-up" not in text
    assert "BREW" not in text
