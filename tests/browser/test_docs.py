"""The documentation page shows the document, with nothing from elsewhere and nothing that its policy forbids."""

from __future__ import annotations

import json
from typing import Any

from browsing import Somebody
from playwright.async_api import expect


async def test_documentation_works_offline_and_within_its_policy(ada: Somebody) -> None:
    """The fixture fails the test on any complaint of the console and on any request to another server."""
    page = await ada.page("/docs")
    await expect(page.get_by_text("List your chats").first).to_be_visible()
    await page.locator(".nav-bar-path", has_text="Send a message").first.click()
    await expect(page.get_by_text("/api/v1/chats/{chat_id}/messages").first).to_be_visible()


async def test_documentation_can_try_operations_out(ada: Somebody) -> None:
    page = await ada.page("/docs")
    await page.locator(".nav-bar-path", has_text="Come in as a guest").first.click()
    async with page.expect_response("**/api/v1/auth/guest") as waiting:
        await page.get_by_role("button", name="TRY").click()
    response = await waiting.value
    assert response.status == 201
    body: dict[str, Any] = json.loads(await response.body())
    assert body["token_type"] == "Bearer"
