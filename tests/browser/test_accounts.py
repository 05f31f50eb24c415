"""Accounts and devices: who is logged in, where, and what other tabs and people see of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from browsing import PASSWORD, NewPerson, Somebody, answered, answers, ask, chat_of, composer, copied
from nodes import Node
from playwright.async_api import Page, Request, expect


async def log_in(page: Page, person: Somebody, password: str = PASSWORD) -> None:
    await page.get_by_label("E-mail").fill(person.email)
    await page.get_by_label("Password", exact=True).fill(password)
    await page.get_by_role("button", name="Log in").click()


async def open_settings(page: Page, tab: str) -> None:
    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("tab", name=tab).click()


async def test_refused_log_in_says_why_and_the_right_one_enters(ada: Somebody) -> None:
    page = await ada.register()
    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("button", name="Log out", exact=True).click()
    await expect(page.get_by_text("You are logged out.")).to_be_visible()
    await log_in(page, ada, "not the passphrase")
    await expect(page.get_by_role("alert")).to_have_text("E-mail or password is wrong.")
    await log_in(page, ada)
    await expect(composer(page)).to_be_visible()
    ada.forgive_failed_requests()


async def test_taken_address_and_common_password_are_pointed_out(ada: Somebody, new_person: NewPerson) -> None:
    await ada.arrive()
    other = await new_person()
    page = await other.page()
    await page.get_by_role("button", name="Create account").click()
    await page.get_by_label("Name").fill("Another")
    await page.get_by_label("E-mail").fill(ada.email)
    await page.get_by_label("Password", exact=True).fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await expect(page.get_by_role("alert")).to_have_text("There is an account with this e-mail already.")
    await page.get_by_label("E-mail").fill(other.email)
    await page.get_by_label("Password", exact=True).fill("password")
    await page.get_by_role("button", name="Create account").click()
    await expect(page.get_by_label("Password", exact=True)).to_have_attribute("aria-invalid", "true")
    await expect(page.locator("#password-note")).to_have_text("This password is too common. Use 8 to 256 characters.")
    await expect(page.get_by_role("alert")).to_have_text("Please check the marked fields.")
    other.forgive_failed_requests()


async def test_refused_fields_are_explained_in_the_language_of_the_person(new_person: NewPerson) -> None:
    person = await new_person(locale="ru-RU")
    page = await person.page()
    await page.get_by_role("button", name="Создать аккаунт").click()
    await page.get_by_label("Имя").fill("Ян Иванов")
    await page.get_by_label("Эл. почта").fill(person.email)
    await page.get_by_label("Пароль", exact=True).fill("password1")
    await page.get_by_role("button", name="Создать аккаунт").click()
    await expect(page.get_by_label("Пароль", exact=True)).to_have_attribute("aria-invalid", "true")
    for note in (page.locator("#password-note"), page.get_by_role("alert")):
        assert not re.search("[A-Za-z]", await note.inner_text())
    person.forgive_failed_requests()


async def test_guest_talks_and_keeps_the_account(ada: Somebody) -> None:
    page = await ada.page()
    await page.get_by_role("button", name="Try it as a guest").click()
    await ask(page, "[[rate=0 tokens=3]]")
    await answered(page)
    await open_settings(page, "Profile")
    await page.get_by_label("E-mail").fill(ada.email)
    await page.get_by_label("Name").fill("Grace Hopper")
    await page.get_by_label("Password", exact=True).fill(PASSWORD)
    await page.get_by_role("button", name="Keep this account").click()
    await expect(page.get_by_text("This account is yours now")).to_be_visible()
    api = await ada.api()
    assert len(await api.messages(chat_of(page))) == 2
    await api.close()


async def test_guest_who_logs_out_is_told_that_the_chats_go_and_may_stay(ada: Somebody) -> None:
    page = await ada.page()
    await page.get_by_role("button", name="Try it as a guest").click()
    await ask(page, "[[rate=0 tokens=3]]")
    await answered(page)
    question = page.get_by_role("dialog", name="Log out as a guest?")
    for tab, door in (("Keyboard", "Log out"), ("Devices", "Log out on all devices")):
        await open_settings(page, tab)
        await page.get_by_role("button", name=door, exact=True).click()
        await expect(question).to_contain_text("You will not be able to come back to these chats.")
        await question.get_by_role("button", name="Keep this account").click()
        await expect(question).to_have_count(0)
        await expect(page.get_by_label("E-mail")).to_be_visible()  # the form that keeps it
        await page.keyboard.press("Escape")
        await expect(answers(page)).to_have_count(1)
    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("button", name="Log out", exact=True).click()
    await question.get_by_role("button", name="Log out anyway").click()
    await expect(page.get_by_text("You are logged out.")).to_be_visible()


async def test_two_people_never_see_each_others_chats(ada: Somebody, new_person: NewPerson) -> None:
    first = await ada.arrive()
    await ask(first, "[[rate=0 tokens=3]] persimmon")
    await answered(first)
    other = await new_person()
    second = await other.arrive("Grace Hopper")
    await expect(second.get_by_text("No chats yet.")).to_be_visible()
    await second.goto(first.url)
    await expect(second.get_by_text("This chat does not exist (any more).")).to_be_visible()
    await second.get_by_role("searchbox").fill("persimmon")
    await expect(second.get_by_role("heading", name="Nothing found")).to_be_visible()
    assert "persimmon" not in await second.locator("main").inner_text()
    other.forgive_failed_requests()


async def test_next_person_at_the_same_browser_finds_nothing_of_the_last(ada: Somebody) -> None:
    page = await ada.register()
    await composer(page).fill("a secret draft")
    other_tab = await ada.page()
    await expect(composer(other_tab)).to_be_visible()
    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("button", name="Log out", exact=True).click()
    await expect(page.get_by_label("E-mail")).to_be_visible()
    await expect(other_tab.get_by_label("E-mail")).to_be_visible()
    ada.forgive_failed_requests()  # what the other tab asked for at this moment is refused
    kept = await page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    assert "secret" not in kept


async def test_tokens_stand_in_no_address_and_in_no_storage(ada: Somebody) -> None:
    seen: list[str] = []
    ada.context.on("request", lambda request: seen.append(request.url))
    page = await ada.register()
    await ask(page, "[[rate=0 tokens=3]]")
    await answered(page)
    async with page.expect_request("**/auth/refresh"):
        await page.reload()
    await expect(composer(page)).to_be_visible()
    readable = await page.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
    assert "eyJ" not in readable
    assert "refresh_token" not in readable
    assert not [url for url in seen if "eyJ" in url or "token=" in url]
    cookies = {cookie["name"]: cookie for cookie in await ada.context.cookies(f"{ada.base}/api/v1/auth/refresh")}
    assert cookies["refresh_token"]["httpOnly"]
    assert cookies["refresh_token"]["sameSite"] == "Strict"


async def test_many_tabs_refresh_once_and_ahead_of_time(
    start_server: Callable[..., Awaitable[Node]], new_person: NewPerson
) -> None:
    server = await start_server(JWT_ACCESS_TOKEN_EXPIRY="6s")
    person = await new_person(server.base)
    refreshes: list[Request] = []
    refused: list[int] = []
    person.context.on("request", lambda request: refreshes.append(request) if "/auth/refresh" in request.url else None)
    person.context.on("response", lambda response: refused.append(response.status) if response.status == 401 else None)
    pages = [await person.arrive()]
    refreshes.clear()
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        pages.append(await person.page())
        await expect(composer(pages[-1])).to_be_visible()
    await asyncio.sleep(11)  # about two lives of a token: the span of time is what is tested
    lives = (asyncio.get_running_loop().time() - began) / 6
    assert 1 <= len(refreshes) <= lives * 1.5 + 1  # of four tabs, new ones included
    assert refused == []
    for page in pages:
        await expect(composer(page)).to_be_visible()


async def test_device_ended_elsewhere_shows_the_log_in_page(ada: Somebody, new_person: NewPerson) -> None:
    here = await ada.arrive()
    elsewhere = await new_person(user_agent="Mozilla/5.0 (Windows NT 10.0) Gecko/20100101 Firefox/140.0")
    there = await elsewhere.page()
    await log_in(there, ada)
    await expect(composer(there)).to_be_visible()
    await open_settings(here, "Devices")
    await here.get_by_role("button", name="Log out Firefox, Windows").click()
    await expect(here.get_by_text("The device is logged out.")).to_be_visible()
    await expect(there.get_by_text("You were logged out on this device.")).to_be_visible(timeout=15_000)
    elsewhere.forgive_failed_requests()


async def test_device_ended_in_mid_answer_takes_up_answer_and_draft_after_the_next_log_in(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=25 tokens=200]]")
    await expect(answers(page)).to_contain_text("w5")
    await composer(page).fill("half a thought")
    api = await ada.api()
    for session in await api.get("/users/me/sessions"):
        if not session["is_current"]:
            (await api.client.delete(f"/users/me/sessions/{session['id']}")).raise_for_status()
    await expect(page.get_by_text("You were logged out on this device.")).to_be_visible(timeout=15_000)
    assert "w5" not in await page.locator("body").inner_text()
    await log_in(page, ada)
    await expect(page.locator("article.live")).to_contain_text("w5")
    await expect(composer(page)).to_have_value("half a thought")
    await answered(page)
    assert (await api.messages(chat_of(page)))[-1]["content"] == await copied(page)
    await api.close()
    ada.forgive_failed_requests()


async def test_token_that_ends_in_mid_answer_is_not_noticed(
    start_server: Callable[..., Awaitable[Node]], new_person: NewPerson
) -> None:
    server = await start_server(JWT_ACCESS_TOKEN_EXPIRY="3s")
    person = await new_person(server.base)
    page = await person.arrive()
    streams: list[int] = []
    page.on("response", lambda response: streams.append(response.status) if response.url.endswith("/stream") else None)
    await ask(page, "[[rate=20 tokens=160]]")  # some eight seconds
    await answered(page)
    assert streams == [200]
    api = await person.api()
    assert (await api.messages(chat_of(page)))[-1]["content"] == await copied(page)
    await api.close()


async def test_password_change_needs_the_old_one_and_ends_other_devices(ada: Somebody, new_person: NewPerson) -> None:
    here = await ada.arrive()
    elsewhere = await new_person()
    there = await elsewhere.page()
    await log_in(there, ada)
    await expect(composer(there)).to_be_visible()
    await open_settings(here, "Change password")
    await here.get_by_label("Current password").fill("a wrong one")
    await here.get_by_label("New password").fill("another long passphrase")
    await here.get_by_role("button", name="Change password").click()
    await expect(here.get_by_role("alert").filter(has_text="wrong")).to_be_visible()
    await here.get_by_label("Current password").fill(PASSWORD)
    await here.get_by_role("button", name="Change password").click()
    await expect(here.get_by_text("All other devices are logged out.")).to_be_visible()
    await expect(there.get_by_text("You were logged out on this device.")).to_be_visible(timeout=15_000)
    await here.reload()
    await expect(composer(here)).to_be_visible()
    ada.forgive_failed_requests()
    elsewhere.forgive_failed_requests()


async def test_profile_name_can_be_changed(ada: Somebody) -> None:
    page = await ada.arrive()
    await open_settings(page, "Profile")
    await page.get_by_label("Name").fill("Ada King")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Your name is saved.")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Account: Ada King")).to_be_visible()


async def test_note_over_an_open_dialog_is_seen_and_heard(ada: Somebody) -> None:
    """What lies outside a modal dialog is inert: nobody could press it, and no screen reader says it."""
    page = await ada.arrive()
    await open_settings(page, "Profile")
    await page.get_by_role("button", name="Save").click()
    note = page.get_by_role("status").filter(has_text="Your name is saved.")
    await expect(note).to_be_visible()
    on_top = (
        "e => { const r = e.getBoundingClientRect(); return e.contains(document.elementFromPoint(r.x + 5, r.y + 5)); }"
    )
    assert await page.locator(".toast").evaluate(on_top)
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(note).to_be_visible()


async def test_log_out_is_in_reach_on_a_phone(new_person: NewPerson) -> None:
    person = await new_person(viewport={"width": 360, "height": 640})
    page = await person.arrive()
    await page.get_by_role("button", name="Show the list of chats").click()
    await open_settings(page, "Devices")
    below = page.get_by_role("button", name="Log out", exact=True)
    await expect(below).to_be_in_viewport()
    await below.click()
    await expect(page.get_by_text("You are logged out.")).to_be_visible()


async def test_russian_and_dark_are_kept(ada: Somebody) -> None:
    page = await ada.arrive()
    await open_settings(page, "Appearance")
    await page.get_by_role("radio", name="Dark").click()
    assert await page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    await page.get_by_role("radio", name="Русский").click()
    await expect(page.get_by_text("О чём поговорим?")).to_be_visible()
    await page.reload()
    await expect(page.get_by_text("О чём поговорим?")).to_be_visible()
    assert await page.locator("html").get_attribute("lang") == "ru"
    assert await page.locator("html").get_attribute("data-theme") == "dark"
