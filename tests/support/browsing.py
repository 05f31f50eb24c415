"""A person in front of a browser, and the same person without one: what the browser tests are written with."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, expect

PASSWORD = "a long enough passphrase"
# What the browser itself writes when a request is refused or the network is gone: expected where a test causes it.
FAILED_REQUEST = re.compile(r"Failed to load resource")


class Somebody:
    """A person with an account, and the browser in front of him."""

    def __init__(self, base: str, context: BrowserContext) -> None:
        self.base = base
        self.context = context
        self.email = f"{uuid.uuid4().hex[:12]}@example.org"
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        context.on("console", self._console)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("request", lambda request: self._request(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _request(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.foreign.append(url)

    def forgive_failed_requests(self) -> None:
        """For tests that take the network away or are refused on purpose."""
        self.complaints = [text for text in self.complaints if not FAILED_REQUEST.search(text)]

    async def page(self, path: str = "/") -> Page:
        page = await self.context.new_page()
        await page.goto(self.base + path)
        return page

    async def register(self, name: str = "Ada Lovelace") -> Page:
        """Through the form, as a person does."""
        page = await self.page()
        await page.get_by_role("button", name="Create account").click()
        await page.get_by_label("Name").fill(name)
        await page.get_by_label("E-mail").fill(self.email)
        await page.get_by_label("Password", exact=True).fill(PASSWORD)
        await page.get_by_role("button", name="Create account").click()
        await expect(composer(page)).to_be_visible()
        return page

    async def arrive(self, name: str = "Ada Lovelace") -> Page:
        """The same without the form, for tests that are about something else."""
        body = {"email": self.email, "username": name, "password": PASSWORD}
        answer = await self.context.request.post(
            f"{self.base}/api/v1/auth/register", data=body, headers={"X-Refresh-Cookie": "1"}
        )
        assert answer.ok, await answer.text()
        page = await self.page("/assets/icon.svg")
        await page.evaluate("localStorage.setItem('signed-in', '1')")
        await page.goto(self.base)
        await expect(composer(page)).to_be_visible()
        return page

    async def api(self) -> Api:
        """The same person without the page: what is really stored."""
        return await Api.log_in(self.base, self.email)


class Api:
    """A client of its own, so that the page is not judged by itself."""

    def __init__(self, base: str, token: str, user_id: str) -> None:
        self.client = httpx.AsyncClient(base_url=f"{base}/api/v1", headers={"Authorization": f"Bearer {token}"})
        self.user_id = user_id

    @classmethod
    async def log_in(cls, base: str, email: str) -> Self:
        async with httpx.AsyncClient(base_url=f"{base}/api/v1") as client:
            answer = await client.post("/auth/login", json={"email": email, "password": PASSWORD})
            answer.raise_for_status()
        api = cls(base, answer.json()["access_token"], "")
        api.user_id = (await api.get("/users/me"))["id"]
        return api

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path)
        answer.raise_for_status()
        return answer.json()

    async def post(self, path: str, body: Any) -> Any:
        answer = await self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    async def messages(self, chat: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.get(f"/chats/{chat}/messages?limit=100")
        return found

    async def close(self) -> None:
        await self.client.aclose()


NewPerson = Callable[..., Awaitable[Somebody]]


def composer(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def answers(page: Page) -> Locator:
    return page.locator("article.assistant")


async def ask(page: Page, text: str) -> None:
    await composer(page).fill(text)
    await page.keyboard.press("Enter")


async def answered(page: Page, *, timeout: float = 15.0) -> None:
    """Wait, at most `timeout` seconds, until nothing is being written any more."""
    await expect(page.locator("article.assistant")).not_to_have_count(0)
    await expect(page.locator("article.live")).to_have_count(0, timeout=timeout * 1000)


async def copied(page: Page) -> str:
    """The newest answer as its copy button gives it: the exact text that the page holds."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    article = answers(page).last
    await article.hover()
    await article.get_by_role("button", name="Copy the answer").click()
    text: str = await page.evaluate("navigator.clipboard.readText()")
    return text


def chat_of(page: Page) -> str:
    return page.url.rpartition("#/c/")[2].partition("/")[0]
