"""Talking: what is on the page is what is stored, whatever happens to page, network and server meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from browsing import NewPerson, Somebody, answered, answers, ask, chat_of, composer, copied
from nodes import Node
from playwright.async_api import Page, Route, expect

SLOW = "[[rate=40 tokens=120]]"


async def until_words(page: Page, count: int) -> None:
    """Wait until the newest answer has `count` words."""
    await page.wait_for_function(
        "n => (document.querySelector('article.assistant:last-of-type .markdown')?.textContent ?? '')"
        ".split(/\\s+/).length > n",
        arg=count,
    )


async def stored_answer(person: Somebody, chat: str) -> dict[str, Any]:
    api = await person.api()
    messages = await api.messages(chat)
    await api.close()
    return messages[-1]


async def require_page_shows_what_is_stored(person: Somebody, page: Page) -> None:
    """The copy button gives the stored text to the letter, and the text on screen has the same words once each."""
    stored = await stored_answer(person, chat_of(page))
    assert stored["status"] == "completed"
    assert await copied(page) == stored["content"]
    shown = await answers(page).last.locator(".markdown").inner_text()
    assert shown.split() == stored["content"].split()


async def test_reload_in_mid_answer_goes_on_and_doubles_nothing(ada: Somebody) -> None:
    page = await ada.register()
    await ask(page, SLOW)
    await until_words(page, 20)
    await page.reload()
    await until_words(page, 30)
    assert await page.locator("article.live").count() == 1
    await answered(page)
    await require_page_shows_what_is_stored(ada, page)
    assert await page.locator("article").count() == 2


async def test_two_tabs_show_the_same_answer_live(ada: Somebody) -> None:
    first = await ada.arrive()
    await ask(first, "[[rate=0 tokens=3]]")
    await answered(first)
    second = await ada.page(f"/#/c/{chat_of(first)}")
    await expect(answers(second)).to_have_count(1)
    await ask(first, SLOW)
    await expect(answers(second)).to_have_count(2)
    await until_words(second, 20)
    assert await first.locator("article.live").count() == 1
    await answered(first)
    await answered(second)
    assert await copied(first) == await copied(second)
    await require_page_shows_what_is_stored(ada, second)


async def test_killed_server_comes_back_and_the_answer_ends_right(
    start_server: Callable[..., Awaitable[Node]], new_person: NewPerson
) -> None:
    """The scripted model continues a prefix, so the restarted process takes over; nobody presses anything."""
    server = await start_server(LEASE="3s", LEASE_RENEWAL="1s")
    person = await new_person(server.base)
    page = await person.arrive()
    await ask(page, "[[rate=30 tokens=240]]")
    await until_words(page, 20)
    server.kill()
    await expect(page.locator(".state", has_text="Reconnecting")).to_be_visible()
    await server.start()
    await answered(page, timeout=40)
    await require_page_shows_what_is_stored(person, page)
    person.forgive_failed_requests()


async def test_stop_keeps_the_text_and_says_so_and_continue_goes_on(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=40 tokens=100]]")
    await until_words(page, 10)
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("Stopped. The text up to here is kept.")).to_be_visible()
    kept = await copied(page)
    stored = await stored_answer(ada, chat_of(page))
    assert (stored["status"], stored["content"]) == ("stopped", kept)
    await page.get_by_role("button", name="Continue").click()
    await answered(page)
    whole = await copied(page)
    assert whole.startswith(kept)
    assert len(whole) > len(kept)
    await require_page_shows_what_is_stored(ada, page)
    assert await answers(page).count() == 1


async def test_try_again_replaces_the_answer(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=200 tokens=5 fails=1]]")
    await answered(page)
    await page.get_by_role("button", name="Try again").last.click()
    await answered(page)
    await expect(answers(page)).to_have_count(1)
    await require_page_shows_what_is_stored(ada, page)


async def test_offline_for_ten_seconds_resumes(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=25 tokens=300]]")
    await until_words(page, 20)
    await ada.context.set_offline(True)
    await expect(page.locator(".state", has_text="Waiting for the network.")).to_be_visible()
    frozen = await answers(page).last.locator(".markdown").inner_text()
    await asyncio.sleep(10)  # the span of time is what is tested
    assert await answers(page).last.locator(".markdown").inner_text() == frozen
    await ada.context.set_offline(False)
    await until_words(page, 250)
    await answered(page)
    await expect(page.locator(".network")).to_be_hidden()
    await require_page_shows_what_is_stored(ada, page)
    ada.forgive_failed_requests()


async def test_message_whose_receipt_was_lost_is_sent_once(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 tokens=3]] first")
    await answered(page)
    keys: list[str] = []

    async def lose_first_receipt(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            await route.fetch()
            await route.abort()
        else:
            await route.continue_()

    await page.route("**/messages", lose_first_receipt)
    await ask(page, "[[rate=0 tokens=3]] second")
    await expect(answers(page)).to_have_count(2)
    await answered(page)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    api = await ada.api()
    assert [message["role"] for message in await api.messages(chat_of(page))] == ["user", "assistant"] * 2
    await api.close()
    ada.forgive_failed_requests()


async def test_message_on_its_way_does_not_hold_up_another_chat(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 tokens=3]] first")
    await answered(page)
    first = chat_of(page)
    await page.route(f"**/{first}/messages", lambda route: route.abort())
    await ask(page, "[[rate=0 tokens=3]] second")
    await expect(page.get_by_text("Your message will be sent as soon as it answers.")).to_be_visible()
    await expect(page.locator("article.pending").get_by_role("button", name="Edit the question")).to_have_count(0)
    await page.get_by_role("link", name="New chat").click()
    await ask(page, "[[rate=0 tokens=3]] elsewhere")
    await answered(page)
    assert chat_of(page) != first
    await page.unroute(f"**/{first}/messages")
    await page.go_back()
    await page.go_back()
    await expect(answers(page)).to_have_count(2)
    await answered(page)
    api = await ada.api()
    assert len(await api.messages(first)) == 4
    await api.close()
    ada.forgive_failed_requests()


async def test_file_pasted_into_a_question_is_folded(ada: Somebody) -> None:
    page = await ada.arrive()
    text = "\n".join(f"line {number}" for number in range(200)) + " [[rate=0 tokens=3]]"
    await ask(page, text)
    await answered(page)
    bubble = page.locator("article.user .bubble")
    folded = await bubble.bounding_box()
    assert folded is not None
    assert folded["height"] < 300
    await page.get_by_role("button", name="Show all").click()
    whole = await bubble.bounding_box()
    assert whole is not None
    assert whole["height"] > 3_000
    assert await bubble.inner_text() == text
    await page.get_by_role("button", name="Show less").click()
    await expect(page.get_by_role("button", name="Show all")).to_have_attribute("aria-expanded", "false")


async def test_message_under_way_at_a_reload_is_sent_once(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 tokens=3]] first")
    await answered(page)
    held = asyncio.Event()

    async def hold(route: Route) -> None:
        held.set()  # never answered: the page is left before

    await page.route("**/messages", hold)
    await ask(page, "[[rate=0 tokens=4]] second")
    await held.wait()
    await page.unroute("**/messages")
    await page.reload()
    await expect(answers(page)).to_have_count(2)
    await answered(page)
    api = await ada.api()
    stored = await api.messages(chat_of(page))
    await api.close()
    assert [message["content"] for message in stored if message["role"] == "user"][1:] == ["[[rate=0 tokens=4]] second"]
    assert await page.locator("article.user").count() == 2


async def test_failure_is_told_in_words_and_can_be_tried_again(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[fault=garbage]]")
    await expect(answers(page).last.get_by_text("The model's service sent something unreadable.")).to_be_visible()
    await expect(answers(page).last.get_by_role("button", name="Try again").first).to_be_visible()


async def test_answer_that_broke_off_keeps_its_text_and_offers_continue(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=100 tokens=40 fault=cut@10]]")
    await expect(page.get_by_role("button", name="Continue")).to_be_visible()
    await expect(answers(page).locator(".state > span")).to_have_text("The answer broke off here. The text is kept.")
    await expect(page.get_by_role("button", name="Try again")).to_have_count(1)  # said once, not by an icon too
    assert (await copied(page)).startswith("w0 ")


async def test_reasoning_is_folded_and_numbers_come_on_request(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=60 tokens=60 reasoning=5]]")
    await answered(page)
    article = answers(page).last
    await expect(article.locator(".thoughts-text")).to_be_hidden()
    await article.get_by_text("Thoughts").click()
    await expect(article.locator(".thoughts-text")).to_contain_text("r0 r1 r2 r3 r4")
    await expect(article.locator(".numbers")).to_be_hidden()
    await article.get_by_role("button", name="Details").click()
    await expect(article.locator(".numbers")).to_contain_text("60 tokens")
    await expect(article.locator(".numbers")).to_contain_text("tokens/s")
    await expect(article.locator(".model-name")).to_have_text("scripted")
    await page.reload()
    await answered(page)
    await answers(page).last.get_by_role("button", name="Details").click()
    await expect(answers(page).last.locator(".numbers")).to_contain_text("tokens/s")


async def test_answer_is_announced_in_sentences_not_in_tokens(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=30 text='One two three. Four five six. Seven eight nine.']]")
    await answered(page)
    said = await page.locator("#announcer p").all_inner_texts()
    assert said[0] == "The answer begins."
    assert said[-1] == "The answer is complete."
    spoken = said[1:-1]
    assert " ".join(spoken) == "One two three. Four five six. Seven eight nine."
    assert all(line.endswith(".") for line in spoken)


async def test_draft_survives_a_reload_per_chat(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=0 tokens=3]]")
    await answered(page)
    await composer(page).fill("half a thought")
    await page.reload()
    await expect(composer(page)).to_have_value("half a thought")
    await page.get_by_role("link", name="New chat").click()
    await expect(composer(page)).to_have_value("")


async def test_keys(ada: Somebody) -> None:
    """Shift+Enter breaks the line, Enter sends, / searches, Escape leaves, Alt+N begins a chat, ? explains."""
    page = await ada.arrive()
    await composer(page).press_sequentially("[[rate=0 tokens=2]] one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await answered(page)
    assert await page.locator("article.user .bubble").inner_text() == "[[rate=0 tokens=2]] one\ntwo"
    await page.locator(".thread").focus()
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("searchbox")).not_to_be_focused()
    await page.keyboard.press("Alt+n")
    await expect(page.get_by_text("What would you like to talk about?")).to_be_visible()
    await page.locator("body").click(position={"x": 700, "y": 20})
    await page.keyboard.press("?")
    await expect(page.get_by_role("tab", name="Keyboard")).to_have_attribute("aria-selected", "true")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_too_long_message_is_counted_and_not_sent(ada: Somebody) -> None:
    page = await ada.arrive()
    await composer(page).fill("x" * 32_003)
    await expect(page.get_by_text("3 characters too many")).to_be_visible()
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()


async def test_hidden_tab_gives_its_connection_back_and_misses_nothing(ada: Somebody) -> None:
    """A browser opens six connections to one origin: tabs that nobody looks at must not hold them."""
    page = await ada.arrive()
    await ask(page, "[[rate=20 tokens=240]]")
    await until_words(page, 5)
    # Not before: what waits for words waits for the page's frames, and they stand still now and then once it is there.
    await page.clock.install()
    set_hidden = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    set_hidden += " document.dispatchEvent(new Event('visibilitychange')); }"
    async with page.expect_event("requestfailed", lambda request: request.url.endswith("/stream")):
        await page.evaluate(set_hidden, True)
        await page.clock.run_for(10_100)
    async with page.expect_request("**/stream") as resumed:
        await page.evaluate(set_hidden, False)
    assert "last-event-id" in (await resumed.value).headers
    await page.clock.resume()
    await answered(page)
    await require_page_shows_what_is_stored(ada, page)


async def test_small_move_upwards_lets_read_while_the_answer_grows(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, "[[rate=60 tokens=4000]]")
    await page.wait_for_function("() => document.querySelector('.thread').scrollTop > 200")
    await page.mouse.move(700, 300)
    await page.mouse.wheel(0, -40)
    await page.wait_for_timeout(150)
    place = await page.locator(".thread").evaluate("element => element.scrollTop")
    height = await page.locator(".thread").evaluate("element => element.scrollHeight")
    await page.wait_for_function("n => document.querySelector('.thread').scrollHeight > n + 100", arg=height)
    assert await page.locator(".thread").evaluate("element => element.scrollTop") == place
    await page.get_by_role("button", name="Go to the latest message").click()
    await page.wait_for_function(
        "() => { const {scrollHeight, scrollTop, clientHeight} = document.querySelector('.thread');"
        " return scrollHeight - scrollTop - clientHeight < 60; }"
    )
    await page.keyboard.press("Escape")
    await answered(page)
