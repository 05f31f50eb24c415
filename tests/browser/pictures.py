"""Takes the pictures in `docs/img/` anew: `python -m pytest tests/browser/pictures.py`. Not run with the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from browsing import NewPerson, Somebody, answered, answers, ask, composer
from playwright.async_api import Page, Route, expect

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/img"
LOOKED_AT = ROOT / ".cache/pictures"
PUBLISHED = {
    "answering",
    "chat-1280-dark",
    "chat-1280-light",
    "chat-2560-light",
    "chat-360-dark",
    "chat-360-light",
    "editing",
    "list-360-dark",
    "login-1280-light",
    "new-1280-light",
    "offline",
    "russian",
    "search",
    "settings-devices",
    "stopped",
}
SAMPLE = (Path(__file__).parent / "sample.md").read_text(encoding="utf-8")
TITLES = (
    "Four quiet days in Lisbon",
    "Refactor the retry loop",
    "Почему небо голубое?",
    "Dinner for six, two vegetarians",
    "Difference between TCP and QUIC",
    "Letter to the landlord",
    "Names for a small bakery",
    "Unit tests for a parser",
    "Summary of the meeting",
    "A regular expression for dates",
    "Birthday present for a sailor",
    "Notes on tides",
)


async def furnish(person: Somebody, sql: asyncpg.Connection[Any]) -> UUID:
    """Some weeks of talk. Returns the newest chat."""
    api = await person.api()
    await api.close()
    user = UUID(api.user_id)
    chat: UUID = await add_chat(sql, user, "Explain keyset paging with a short example", 0)
    for number, title in enumerate(TITLES):
        await add_chat(sql, user, title, 9 + number * 14)
    question: UUID = await add_message(sql, chat, user, None, 1, "user", "Explain keyset paging with a short example")
    answer = await add_message(sql, chat, user, question, 2, "assistant", SAMPLE)
    await sql.execute("UPDATE chats SET leaf_id = $2 WHERE id = $1", chat, answer)
    return chat


async def add_chat(sql: asyncpg.Connection[Any], user: UUID, title: str, hours: int) -> UUID:
    chat: UUID = await sql.fetchval(
        "INSERT INTO chats (id, user_id, title, title_source, model_used, last_sequence, updated_at) VALUES "
        "(gen_random_uuid(), $1, $2, 'user', 'scripted', 2, now() - make_interval(hours => $3)) RETURNING id",
        user,
        title,
        hours,
    )
    return chat


async def add_message(
    sql: asyncpg.Connection[Any], chat: UUID, user: UUID, parent: UUID | None, number: int, role: str, content: str
) -> UUID:
    message: UUID = await sql.fetchval(
        "INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role, content, model, tokens) "
        "VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6, $7, 412) RETURNING id",
        chat,
        user,
        parent,
        number,
        role,
        content,
        "scripted" if role == "assistant" else "",
    )
    return message


async def take(page: Page, name: str) -> None:
    """Into `docs/img`, or for the many that only we look at: into `.cache/pictures`."""
    folder = IMAGES if name in PUBLISHED else LOOKED_AT
    folder.mkdir(parents=True, exist_ok=True)
    await page.evaluate("document.fonts.ready.then(() => true)")
    await page.wait_for_timeout(250)
    await page.screenshot(path=folder / f"{name}.png")


async def open_chat(person: Somebody, page: Page, chat: UUID) -> None:
    await page.goto(f"{person.base}/#/c/{chat}")
    await page.reload()
    await expect(answers(page)).to_be_visible()
    await expect(page.locator(".hl-keyword").first).to_be_attached()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 800), (2560, 1300)])
async def test_main_states(
    new_person: NewPerson, sql: asyncpg.Connection[Any], width: int, height: int, scheme: str
) -> None:
    phone = width < 500
    person = await new_person(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=phone, is_mobile=phone
    )
    page = await person.page()
    await take(page, f"login-{width}-{scheme}")
    page = await person.arrive()
    await page.reload()
    await expect(composer(page)).to_be_visible()
    await take(page, f"new-{width}-{scheme}")
    chat = await furnish(person, sql)
    await open_chat(person, page, chat)
    await take(page, f"chat-end-{width}-{scheme}")
    await page.locator(".thread").evaluate("element => element.scrollTo(0, 0)")
    await take(page, f"chat-{width}-{scheme}")
    if phone:
        await page.get_by_role("button", name="Show the list of chats").click()
        await take(page, f"list-{width}-{scheme}")


ANSWER = (
    "Because a page ends at a key, not at a number. The key is whatever puts the rows in their order, here the time "
    "of the last change, with the id behind it for rows that changed in the same moment. Whoever holds the key of the "
    "last row can ask for the next row without counting anything. An index finds that place in a few steps, however "
    "far down the list it is; and when somebody adds a row at the top meanwhile, the place does not move. That is why "
    "nothing comes twice and nothing is left out, and why the millionth page costs what the first one did."
)


async def scripted(route: Route) -> None:
    """Give the question to the scripted model with its script, and show the question alone."""
    if route.request.method != "POST":
        return await route.continue_()
    body: dict[str, Any] = json.loads(route.request.post_data or "{}")
    script = f"[[rate=18 text='{ANSWER}']]"
    answer = await route.fetch(post_data=json.dumps({**body, "content": f"{body['content']} {script}"}))
    sent = await answer.json()
    sent["message"]["content"] = body["content"]
    return await route.fulfill(response=answer, json=sent)


async def test_special_states(new_person: NewPerson, sql: asyncpg.Connection[Any]) -> None:
    person = await new_person()
    page = await person.arrive()
    chat = await furnish(person, sql)
    await open_chat(person, page, chat)
    await page.get_by_role("searchbox").fill("keyset")
    await expect(page.locator(".result").first).to_be_visible()
    await take(page, "search")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Account").click()
    await take(page, "settings-profile")
    await page.get_by_role("tab", name="Devices").click()
    await expect(page.get_by_text("This device")).to_be_visible()
    await take(page, "settings-devices")
    await page.get_by_role("tab", name="Appearance").click()
    await take(page, "settings-appearance")
    await page.get_by_role("tab", name="Keyboard").click()
    await take(page, "settings-keyboard")
    await page.keyboard.press("Escape")
    await page.locator(".chat-row").nth(1).hover()
    await page.locator(".chat-row").nth(1).get_by_role("button").click()
    await take(page, "menu")
    await page.get_by_role("menuitem", name="Delete").click()
    await take(page, "delete")
    await page.keyboard.press("Escape")
    await page.route("**/messages", scripted)
    await ask(page, "And why is it called a key?")
    await expect(answers(page).last).to_contain_text("the next row")
    await take(page, "answering")
    await person.context.set_offline(True)
    await expect(page.locator(".state", has_text="Waiting")).to_be_visible()
    await take(page, "offline")
    await person.context.set_offline(False)
    await expect(page.locator(".state", has_text="Waiting")).to_have_count(0)
    await page.keyboard.press("Escape")
    await answered(page)
    await answers(page).last.get_by_role("button", name="Details").click()
    await take(page, "stopped")
    await answers(page).last.get_by_role("button", name="Try again").click()
    await answered(page)
    await expect(page.locator(".versions:not([hidden])")).to_have_text("2 / 2")
    await composer(page).press("ArrowUp")
    await take(page, "editing")
    await page.keyboard.press("Escape")
    await page.evaluate("localStorage.setItem('language', 'ru')")
    await page.goto(person.base)
    await page.reload()
    await expect(page.get_by_text("О чём поговорим?")).to_be_visible()
    await take(page, "russian")
    person.forgive_failed_requests()
