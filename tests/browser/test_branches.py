"""Versions: other answers to the same question, other wordings of the same question, and the way between them."""

from __future__ import annotations

from typing import Any

import asyncpg
from browsing import Somebody, answered, answers, ask, chat_of, composer, copied
from long_chats import insert_chat
from playwright.async_api import Locator, Page, Route, expect


def versions(page: Page) -> Locator:
    return page.locator(".versions:not([hidden])")


def questions(page: Page) -> Locator:
    return page.locator("article.user")


async def turn(page: Page, name: str) -> None:
    async with page.expect_response(lambda response: response.url.endswith("/leaf")):
        await versions(page).get_by_role("button", name=name).click()


async def rewrite(page: Page, number: int, text: str) -> None:
    """Edit question `number` with the mouse."""
    await questions(page).nth(number).hover()
    await questions(page).nth(number).get_by_role("button", name="Edit the question").click()
    field = page.get_by_role("textbox", name="Edit the question")
    await expect(field).to_be_focused()
    await field.fill(text)
    await page.keyboard.press("Enter")


async def whole_tree(person: Somebody, chat: str) -> list[dict[str, Any]]:
    api = await person.api()
    found: list[dict[str, Any]] = await api.get(f"/chats/{chat}/messages?limit=100&branch=all")
    await api.close()
    return found


async def require_page_shows_the_stored_branch(person: Somebody, page: Page) -> None:
    api = await person.api()
    stored = [message["content"].split() for message in await api.messages(chat_of(page))]
    await api.close()
    shown = [text.split() for text in await page.locator("article :is(.bubble, .markdown)").all_inner_texts()]
    assert shown == stored


async def test_another_answer_keeps_the_one_before_and_both_can_be_turned_to(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 stamp=1 tokens=3]]")
    await answered(page)
    first = await copied(page)
    await expect(versions(page)).to_have_count(0)
    await page.get_by_role("button", name="Try again").click()
    await answered(page)
    await expect(versions(page)).to_have_text("2 / 2")
    second = await copied(page)
    assert first != second
    await turn(page, "The version before")
    await expect(versions(page)).to_have_text("1 / 2")
    assert await copied(page) == first
    # The first one has none before it: the keyboard stays where something can be done.
    await versions(page).get_by_role("button", name="The next version").focus()
    await expect(page.locator("#announcer p").last).to_have_text("Version 1 of 2")
    await page.reload()
    await expect(versions(page)).to_have_text("1 / 2")
    assert await copied(page) == first
    await turn(page, "The next version")
    await expect(versions(page)).to_have_text("2 / 2")
    await require_page_shows_the_stored_branch(ada, page)


async def test_edited_question_is_a_branch_of_its_own_and_nothing_is_lost(ada: Somebody) -> None:
    page = await ada.arrive()
    for count, number in enumerate(("one", "two", "three"), 1):
        await ask(page, f"question {number} [[rate=0 tokens=3]]")
        # The answer before may still stand there as the last one.
        await expect(answers(page)).to_have_count(count)
        await answered(page)
    await rewrite(page, 1, "question two, better put [[rate=0 tokens=4]]")
    await expect(questions(page)).to_have_count(2)
    await answered(page)
    await expect(versions(page)).to_have_text("2 / 2")
    await require_page_shows_the_stored_branch(ada, page)
    tree = await whole_tree(ada, chat_of(page))
    assert len(tree) == 8
    old, new = (message for message in tree if message["content"].startswith("question two"))
    assert old["parent_id"] == new["parent_id"]
    await turn(page, "The version before")
    await expect(questions(page)).to_have_count(3)
    await require_page_shows_the_stored_branch(ada, page)
    await ask(page, "question four [[rate=0 tokens=3]]")
    await expect(answers(page)).to_have_count(4)
    await answered(page)
    await require_page_shows_the_stored_branch(ada, page)


async def test_first_question_can_be_edited_with_the_keyboard_alone(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 tokens=3]] first")
    await answered(page)
    await composer(page).press("ArrowUp")
    field = page.get_by_role("textbox", name="Edit the question")
    await expect(field).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(field).to_have_count(0)
    await expect(questions(page).get_by_role("button", name="Edit the question")).to_be_focused()
    await composer(page).press("ArrowUp")
    await page.keyboard.type(" and last")
    await page.keyboard.press("Enter")
    await expect(questions(page).locator(".bubble")).to_have_text("[[rate=0 tokens=3]] first and last")
    await answered(page)
    await page.reload()
    await expect(versions(page)).to_have_text("2 / 2")
    await require_page_shows_the_stored_branch(ada, page)


async def test_edit_while_an_answer_is_written_takes_its_place(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=30 tokens=600]]")
    await expect(answers(page)).to_contain_text("w5")
    await expect(answers(page).get_by_role("button", name="Try again")).to_be_hidden()
    await composer(page).press("ArrowUp")
    await page.get_by_role("textbox", name="Edit the question").fill("[[rate=0 tokens=4]] shorter, please")
    await page.keyboard.press("Enter")
    await answered(page)
    await expect(questions(page)).to_have_count(1)
    await require_page_shows_the_stored_branch(ada, page)
    assert [message["status"] for message in await whole_tree(ada, chat_of(page))][1::2] == ["stopped", "completed"]


async def test_continued_answer_leaves_no_stump_among_the_versions(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=40 tokens=60]]")
    await expect(answers(page)).to_contain_text("w5")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Continue").click()
    await answered(page)
    await page.reload()
    await expect(answers(page)).to_contain_text("w59")
    await page.get_by_role("button", name="Try again").click()
    await answered(page)
    await expect(versions(page)).to_have_text("2 / 2")


async def test_refused_edit_gives_the_words_back_where_they_were_written(ada: Somebody) -> None:
    page = await ada.arrive()
    for number in ("one", "two"):
        await ask(page, f"question {number} [[rate=0 tokens=3]]")
        await answered(page)
        await expect(answers(page)).to_have_count(1 if number == "one" else 2)

    async def refuse(route: Route) -> None:
        await route.fulfill(status=429, json={"code": "too_many_generations", "detail": "", "status": 429})

    await page.route("**/messages", refuse)
    await rewrite(page, 0, "words that must not be lost")
    await expect(page.locator(".toast")).to_contain_text("Several answers are being written")
    await expect(page.get_by_role("textbox", name="Edit the question")).to_have_value("words that must not be lost")
    await expect(page.locator("article")).to_have_count(4)
    ada.forgive_failed_requests()


async def test_edit_under_way_at_a_reload_is_sent_once_and_in_its_place(ada: Somebody) -> None:
    page = await ada.arrive()
    for number in ("one", "two"):
        await ask(page, f"question {number} [[rate=0 tokens=3]]")
        await answered(page)
        await expect(answers(page)).to_have_count(1 if number == "one" else 2)
    async with page.expect_request("**/messages") as sent:
        await page.route("**/messages", lambda _: None)  # never answered: the page is left before
        await rewrite(page, 0, "question one, anew [[rate=0 tokens=4]]")
    assert (await sent.value).method == "POST"
    await page.unroute("**/messages")
    await page.reload()
    await expect(questions(page).locator(".bubble")).to_have_text("question one, anew [[rate=0 tokens=4]]")
    await answered(page)
    await expect(versions(page)).to_have_text("2 / 2")
    await require_page_shows_the_stored_branch(ada, page)
    assert len(await whole_tree(ada, chat_of(page))) == 6


async def test_other_tab_turns_too(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 stamp=1 tokens=3]]")
    await answered(page)
    other = await ada.page(f"/#/c/{chat_of(page)}")
    await expect(answers(other)).to_have_count(1)
    await page.get_by_role("button", name="Try again").click()
    await answered(page)
    await expect(versions(other)).to_have_text("2 / 2")
    await turn(page, "The version before")
    await expect(versions(other)).to_have_text("1 / 2")
    assert await copied(page) == await copied(other)


async def test_model_chosen_now_is_the_one_that_tries_again(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 tokens=3]]")
    await answered(page)
    async with page.expect_response(lambda response: response.request.method == "PUT"):
        await page.get_by_label("Model").select_option("guide")
    await page.get_by_role("button", name="Try again").click()
    await answered(page)
    await expect(answers(page).locator(".model-name")).to_have_text("guide")


async def test_archived_chat_offers_no_change(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=40 tokens=60]]")
    await expect(answers(page)).to_contain_text("w5")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Continue")).to_be_visible()
    await page.get_by_role("button", name="Chat actions").click()
    await page.get_by_role("menuitem", name="Archive").click()
    await expect(page.get_by_text("This chat is in the archive.")).to_be_visible()
    for name in ("Continue", "Try again", "Edit the question"):
        await expect(page.locator(".messages").get_by_role("button", name=name)).to_have_count(0)
    await expect(page.locator(".messages").get_by_role("button", name="Copy the answer")).to_be_visible()


async def test_branch_that_leaves_far_above_shows_its_whole_way(ada: Somebody, sql: asyncpg.Connection[Any]) -> None:
    """The question lies several pages up: neither branch may show a message of the other."""
    page = await ada.arrive()
    api = await ada.api()
    chat = await insert_chat(sql, api.user_id, "A story", 180)
    first = (await api.messages(str(chat)))[0]["id"]
    await api.close()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "branch=all" in request.url else None)
    await page.evaluate(f"location.hash = '#/c/{chat}/{first}'")
    await expect(page.get_by_text("Message number 1.", exact=False).first).to_be_visible()
    await page.wait_for_timeout(500)
    assert asked == []  # a chat without branches is not asked for them
    await rewrite(page, 0, "Another beginning [[rate=0 tokens=3]]")
    await expect(answers(page)).to_have_count(1)
    await answered(page)
    await turn(page, "The version before")
    await expect(page.get_by_text("Message number 1.", exact=False).first).to_be_visible()
    for _ in range(12):
        await page.locator(".thread").evaluate("element => element.scrollTo(0, element.scrollHeight)")
        await page.wait_for_timeout(60)
    await expect(page.get_by_text("Message number 180.")).to_be_visible()
    numbers = await page.locator("article").evaluate_all(
        "list => list.map((article) => Number(/number (\\d+)/.exec(article.textContent)[1]))"
    )
    assert numbers == list(range(numbers[0], 181))
