"""The list of chats, live on every tab and device, and chats of any length."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from browsing import PASSWORD, NewPerson, Somebody, answered, answers, ask, composer
from long_chats import insert_chat
from playwright.async_api import Locator, Page, expect


def rows(page: Page) -> Locator:
    return page.locator(".chat-row")


def row(page: Page, title: str) -> Locator:
    return page.locator(".chat-row", has_text=title)


async def choose(page: Page, title: str, action: str) -> None:
    await row(page, title).hover()
    await row(page, title).get_by_role("button").click()
    await page.get_by_role("menuitem", name=action).click()


async def test_first_message_names_the_chat_and_other_devices_see_it(ada: Somebody, new_person: NewPerson) -> None:
    page = await ada.arrive()
    phone = await new_person()
    there = await phone.page()
    await there.get_by_label("E-mail").fill(ada.email)
    await there.get_by_label("Password", exact=True).fill(PASSWORD)
    await there.get_by_role("button", name="Log in").click()
    await expect(there.get_by_text("No chats yet.")).to_be_visible()
    await ask(page, "How do tides work? [[rate=0 tokens=3]]")
    await answered(page)
    await expect(row(there, "How do tides work?")).to_be_visible()
    await choose(page, "How do tides work?", "Rename")
    await page.get_by_label("Title").fill("The moon and the sea")
    await page.get_by_role("button", name="Save").click()
    await expect(row(there, "The moon and the sea")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_have_text("The moon and the sea")
    await choose(there, "The moon and the sea", "Delete")
    await there.get_by_role("button", name="Delete").click()
    await expect(rows(page)).to_have_count(0)
    await expect(page.get_by_text("What would you like to talk about?")).to_be_visible()


async def test_archive_hides_and_restore_brings_back(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "Tides [[rate=0 tokens=3]]")
    await answered(page)
    await choose(page, "Tides", "Archive")
    await page.locator(".toast", has_text="is in the archive").get_by_role("button", name="Undo").click()
    await expect(row(page, "Tides")).to_be_visible()
    await choose(page, "Tides", "Archive")
    await expect(rows(page)).to_have_count(0)
    await expect(page.get_by_text("This chat is in the archive.")).to_be_visible()
    await expect(composer(page)).to_be_hidden()
    await page.locator(".side-foot").get_by_role("button", name="Archive").click()
    await expect(page.get_by_role("heading", name="Archived chats")).to_be_visible()
    await expect(row(page, "Tides")).to_be_visible()
    await page.locator(".archived-bar").get_by_role("button", name="Restore").click()
    await expect(composer(page)).to_be_visible()
    await page.get_by_role("button", name="Back to the chats").click()
    await expect(row(page, "Tides")).to_be_visible()


async def test_field_is_whole_again_after_a_chat_that_has_none(ada: Somebody) -> None:
    page = await ada.arrive()
    whole = await composer(page).bounding_box()
    await ask(page, "Tides [[rate=0 tokens=3]]")
    await answered(page)
    await choose(page, "Tides", "Archive")
    await expect(composer(page)).to_be_hidden()
    await page.get_by_role("link", name="New chat").click()
    await expect(composer(page)).to_be_visible()
    now = await composer(page).bounding_box()
    assert whole is not None
    assert now is not None
    assert now["height"] == whole["height"]
    await page.goto(f"{ada.base}/#/c/{UUID(int=0)}")
    await expect(page.get_by_text("This chat does not exist (any more).")).to_be_visible()
    await page.get_by_role("link", name="Start a new chat").click()
    now = await composer(page).bounding_box()
    assert now is not None
    assert now["height"] == whole["height"]
    ada.forgive_failed_requests()


async def test_list_scrolls_without_end(ada: Somebody) -> None:
    page = await ada.arrive()
    api = await ada.api()
    for number in range(75):
        await api.post("/chats", {"title": f"Chat number {number}"})
    await api.close()
    await page.reload()
    await expect(row(page, "Chat number 74")).to_be_visible()
    assert await rows(page).count() < 75
    for _ in range(5):
        await page.locator(".side-scroll").evaluate("element => element.scrollTo(0, element.scrollHeight)")
        await page.wait_for_timeout(100)
    await expect(rows(page)).to_have_count(75)
    titles = await page.locator(".chat-title").all_inner_texts()
    assert titles == [f"Chat number {number}" for number in reversed(range(75))]


async def test_search_marks_hits_and_leads_to_the_message(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "Where do persimmons grow? [[rate=0 text='In warm valleys, says the <b>atlas</b>.']]")
    await answered(page)
    await page.get_by_role("link", name="New chat").click()
    await page.keyboard.press("/") if not await composer(page).evaluate("e => e === document.activeElement") else None
    await page.get_by_role("searchbox").fill("valleys")
    await expect(page.locator(".result mark").first).to_have_text("valleys")
    await page.locator(".result", has=page.locator(".result-text")).first.click()
    await expect(page.locator("article.found, article.assistant").first).to_be_visible()
    await expect(answers(page)).to_contain_text("In warm valleys")


async def test_more_hits_than_a_page_come_by_scrolling_and_the_arrow_leads_to_them(ada: Somebody) -> None:
    page = await ada.arrive()
    api = await ada.api()
    for number in range(45):
        await api.post("/chats", {"title": f"Persimmon number {number}"})
    await api.post("/chats", {"title": "Newest, and about something else"})
    await api.close()
    await page.reload()
    await expect(row(page, "Newest")).to_be_visible()
    hits, count = page.locator(".result"), page.locator(".results h3")
    # In a low window the end of the first page is farther away than the list looks ahead.
    await page.set_viewport_size({"width": 1280, "height": 360})
    await page.get_by_role("searchbox").fill("persimmon")
    await expect(count).to_have_text("20+ hits")
    await page.keyboard.press("ArrowDown")
    await expect(hits.first).to_be_focused()
    for _ in range(5):
        await page.locator(".side-scroll").evaluate("element => element.scrollTo(0, element.scrollHeight)")
        await page.wait_for_timeout(100)
    await expect(hits).to_have_count(45)
    await expect(count).to_have_text("45 hits")
    await expect(page.locator(".list-edge")).to_be_hidden()
    titles = await page.locator(".result-title").all_inner_texts()
    assert titles == [f"Persimmon number {number}" for number in reversed(range(45))]
    await page.get_by_role("searchbox").fill("something else")
    await expect(count).to_have_text("1 hit")
    await page.get_by_role("searchbox").fill("")
    await expect(row(page, "Newest")).to_be_visible()


async def test_hit_is_read_without_the_signs_of_markdown(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 text='## Fruit\n\n| **persimmon** | `sweet` |\n| --- | ---: |\n| yes | 1 |']]")
    await answered(page)
    await page.get_by_role("searchbox").fill("persimmon")
    hit = page.locator(".result-text", has_not_text="rate=0")
    await expect(hit.locator("mark")).to_have_text("persimmon")
    assert (await hit.inner_text()).split() == ["Fruit", "persimmon", "sweet", "yes", "1"]


async def test_chat_of_ten_thousand_messages_stays_smooth(ada: Somebody, sql: asyncpg.Connection[Any]) -> None:
    page = await ada.arrive()
    api = await ada.api()
    chat = await insert_chat(sql, api.user_id, "A long story", 10_000)
    await api.close()
    await page.evaluate(
        "() => { window.longest = 0; new PerformanceObserver((list) => { for (const task of list.getEntries()) "
        "window.longest = Math.max(window.longest, task.duration); }).observe({type: 'longtask'}); }"
    )
    began = await page.evaluate("performance.now()")
    await page.evaluate(f"location.hash = '#/c/{chat}'")
    await expect(page.get_by_text("Message number 10000.")).to_be_visible()
    assert await page.evaluate("performance.now()") - began < 4_000
    for _ in range(25):
        await page.locator(".thread").evaluate("element => element.scrollTo(0, 0)")
        await page.wait_for_timeout(60)
    shown = await page.locator("article").evaluate_all(
        "list => list.map((article) => Number(/number (\\d+)/.exec(article.textContent)[1]))"
    )
    assert shown == list(range(shown[0], shown[0] + len(shown)))  # no gap, nothing twice
    assert shown[0] < 9_500
    assert len(shown) <= 240
    assert await page.evaluate("longest") < 800  # milliseconds; some 60 when nothing else runs here
    await page.get_by_role("button", name="Go to the latest message").click()
    await expect(page.get_by_text("Message number 10000.")).to_be_visible()
    await ask(page, "[[rate=0 tokens=5]]")
    await answered(page)
    await expect(answers(page).last).to_contain_text("w0")


async def test_wheel_moves_the_text_by_what_it_says_while_earlier_messages_arrive(
    ada: Somebody, sql: asyncpg.Connection[Any]
) -> None:
    page = await ada.arrive()
    api = await ada.api()
    chat = await insert_chat(sql, api.user_id, "A story", 400)
    await api.close()
    await page.evaluate(f"location.hash = '#/c/{chat}'")
    await expect(page.get_by_text("Message number 400.")).to_be_visible()
    await page.mouse.move(800, 300)
    began = await page.locator("article").count()
    further = 0
    while further < 8:
        further += await page.locator("article").count() > began
        mark = await page.evaluate_handle("() => document.elementFromPoint(700, 250).closest('article, .messages')")
        before = await mark.evaluate("element => element.getBoundingClientRect().top")
        await page.mouse.wheel(0, -300)
        await page.wait_for_function("([e, y]) => e.getBoundingClientRect().top !== y", arg=[mark, before])
        await page.wait_for_timeout(80)
        moved = await mark.evaluate("element => element.getBoundingClientRect().top") - before
        assert abs(moved - 300) < 3


async def test_tall_screen_fills_its_list_without_scrolling(new_person: NewPerson) -> None:
    person = await new_person(viewport={"width": 1280, "height": 2200})
    page = await person.arrive()
    api = await person.api()
    for number in range(70):
        await api.post("/chats", {"title": f"Chat number {number}"})
    await api.close()
    await page.reload()
    await page.wait_for_function("() => document.querySelectorAll('.chat-row').length > 45")


async def test_list_can_be_put_aside_and_the_model_belongs_to_the_chat(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "Tides [[rate=0 tokens=3]]")
    await answered(page)
    await page.get_by_role("button", name="Hide the list of chats").click()
    await expect(page.locator(".sidebar")).to_be_hidden()
    await page.get_by_role("button", name="Show the list of chats").click()
    await expect(page.locator(".sidebar")).to_be_visible()
    async with page.expect_response(lambda response: response.request.method == "PUT"):
        await page.get_by_label("Model").select_option("guide")
    await page.reload()
    await expect(page.get_by_label("Model")).to_have_value("guide")
