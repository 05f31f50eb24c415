"""For everybody: accessible, light, quick, whole at every width, and the same in both languages."""

from __future__ import annotations

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from browsing import NewPerson, Somebody, answered, answers, ask, chat_of, composer
from playwright.async_api import Page, expect

from llmchatbot.handlers.pages import CONTENT_TYPES, FOLDER

DOCS = Path(__file__).resolve().parents[2] / "docs"
AXE = Path(__file__).parent / "vendor/axe.min.js"
BUDGET = 150_000  # bytes over the wire, compressed
TEXT = "Say something. [[rate=0 text='Tides follow the moon. Twice a day the sea comes, twice it goes.']]"


async def require_accessible(page: Page, state: str) -> None:
    """No violation that axe-core calls serious or critical."""
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(AXE.read_text(encoding="utf-8"))
    result = await page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    bad = [
        (state, found["id"], found["impact"], [node["html"][:160] for node in found["nodes"][:3]])
        for found in result["violations"]
        if found["impact"] in {"serious", "critical"}
    ]
    assert bad == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
async def test_axe_finds_nothing_serious(new_person: NewPerson, width: int, scheme: str) -> None:
    person = await new_person(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = await person.page()
    await require_accessible(page, "log-in")
    await page.get_by_role("button", name="Create account").click()
    await require_accessible(page, "registration")
    await page.close()
    page = await person.register()
    await require_accessible(page, "new chat")
    await ask(page, "[[rate=30 tokens=400 reasoning=3]]")
    await expect(answers(page)).to_contain_text("w5")
    await require_accessible(page, "answer being written")
    await page.keyboard.press("Escape")
    await answered(page)
    await answers(page).last.get_by_role("button", name="Details").click()
    await require_accessible(page, "stopped answer")
    await composer(page).press("ArrowUp")
    await require_accessible(page, "question being edited")
    await page.get_by_role("textbox", name="Edit the question").fill("[[rate=0 tokens=3]]")
    await page.get_by_role("button", name="Send").first.click()
    await expect(page.locator(".versions:not([hidden])")).to_have_text("2 / 2")
    await answered(page)
    await require_accessible(page, "versions")
    await show_markdown(page, RICH)
    await require_accessible(page, "Markdown")
    if width < 600:
        await page.get_by_role("button", name="Show the list of chats").click()
    await require_accessible(page, "list of chats")
    await page.locator(".chat-row").first.hover()
    await page.locator(".chat-row").get_by_role("button").first.click()
    await require_accessible(page, "menu")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Account").click()
    for tab in await page.get_by_role("tab").all():
        await tab.click()
        await require_accessible(page, await tab.inner_text())


RICH = """# A heading

Text with *emphasis*, `code`, ~~a mistake~~, $a^2 + b^2 = c^2$ and a [link](https://example.org).

- [x] done
- [ ] open

| left | right |
| :--- | ---: |
| a | 1 |

> A quotation.

```python
def answer() -> int:
    return 42  # of course
```

$$\\int_0^1 x^2 dx = \\tfrac{1}{3}$$

![A picture](https://example.org/picture.png)
"""


async def show_markdown(page: Page, text: str) -> None:
    """Put an answer into the open chat without asking a model."""
    await page.evaluate(
        """async (text) => {
          const {MarkdownView} = await import('/assets/js/markdown.js');
          new MarkdownView(document.querySelector('article.assistant .markdown')).show(text, true);
        }""",
        text,
    )


async def test_markdown_becomes_what_it_says(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, TEXT)
    await answered(page)
    await show_markdown(page, RICH)
    markdown = answers(page).locator(".markdown")
    await expect(markdown.locator("h3")).to_have_text("A heading")
    await expect(markdown.locator("em")).to_have_text("emphasis")
    await expect(markdown.locator(".math").first).to_have_text("a^2 + b^2 = c^2")
    await expect(markdown.locator(".math-display")).to_have_text("\\int_0^1 x^2 dx = \\tfrac{1}{3}")
    await expect(markdown.locator("td.align-right")).to_have_text("1")
    await expect(markdown.get_by_role("img", name="done")).to_be_visible()
    await expect(markdown.locator("pre code .hl-keyword").first).to_have_text("def")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await markdown.get_by_role("button", name="Copy the code").click()
    assert await page.evaluate("navigator.clipboard.readText()") == "def answer() -> int:\n    return 42  # of course"


async def test_growing_markdown_ends_like_the_whole_one_and_keeps_what_is_finished(ada: Somebody) -> None:
    page = await ada.page()
    same, kept = await page.evaluate(
        """async (text) => {
          const {MarkdownView} = await import('/assets/js/markdown.js');
          const grown = document.createElement('div'), whole = document.createElement('div');
          new MarkdownView(whole).show(text, true);
          const view = new MarkdownView(grown);
          let first = null, kept = true;
          for (let end = 1; end <= text.length; end += 1) {
            view.show(text.slice(0, end));
            if (end > 20) kept &&= (first ??= grown.firstElementChild) === grown.firstElementChild;
          }
          view.show(text, true);
          return [grown.isEqualNode(whole), kept && first === grown.firstElementChild];
        }""",
        RICH.replace("```python", "```"),
    )
    assert (same, kept) == (True, True)


async def test_work_per_frame_does_not_grow_with_the_answer(ada: Somebody) -> None:
    """100 KB in 1,000 steps: what is looked at again in a step is the last block, not the whole."""
    page = await ada.page()
    longest = await page.evaluate(
        """async () => {
          const {MarkdownView} = await import('/assets/js/markdown.js');
          const view = new MarkdownView(document.createElement('div'));
          const part = 'A paragraph of some length, with *emphasis* and `code`.\\n\\n'.repeat(2).slice(0, 100);
          let text = '', longest = 0;
          for (let step = 0; step < 1000; step += 1) {
            view.show((text += part));
            longest = Math.max(longest, text.length - view.settled);
          }
          return longest;
        }"""
    )
    assert longest < 200


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
async def test_nothing_sticks_out_at_any_width(new_person: NewPerson, width: int) -> None:
    person = await new_person(viewport={"width": width, "height": 800})
    page = await person.arrive("A person with quite a long name, longer than any column")
    await ask(page, f"{'a' * 300} {'long ' * 100} [[rate=0 tokens=3]]")
    await answered(page)
    await show_markdown(page, RICH + "b" * 400 + "\n\n`" + "c" * 300 + "`")
    overflow = "() => document.documentElement.scrollWidth - innerWidth"
    assert await page.evaluate(overflow) <= 0
    assert await page.locator(".thread").evaluate("element => element.scrollWidth - element.clientWidth") <= 0
    await page.get_by_role("button", name="Account").click(force=True) if width > 859 else None
    assert await page.evaluate(overflow) <= 0
    column = await page.locator(".messages").bounding_box()
    assert column is not None
    assert column["width"] <= 1_000  # lines stay readable on a wide screen


FIRST_PAINT = """() => new Promise((resolve) => new PerformanceObserver((list) => {
  const paint = list.getEntries().find((entry) => entry.name === 'first-contentful-paint');
  if (paint) resolve(paint.startTime);
}).observe({type: 'paint', buffered: true}))"""


async def test_weight_and_first_paint(ada: Somebody) -> None:
    page = await ada.page()
    paints = [await page.evaluate(FIRST_PAINT)]
    for _ in range(2):  # other work on this machine is no fault of the page
        await page.reload()
        paints.append(await page.evaluate(FIRST_PAINT))
    assert min(paints) <= 1_000
    await page.close()
    page = await ada.arrive()
    await ask(page, TEXT)
    await answered(page)
    await show_markdown(page, RICH)
    await expect(page.locator(".hl-keyword").first).to_be_visible()
    sizes = await page.evaluate(
        "() => performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/assets/'))"
        ".map((entry) => [entry.name, entry.encodedBodySize, entry.decodedBodySize])"
    )
    assert len(sizes) > 20
    assert sum(encoded for _, encoded, _ in sizes) < sum(decoded for *_, decoded in sizes) / 2
    assert sum(encoded for _, encoded, _ in sizes) <= BUDGET


def test_all_files_together_fit_the_budget() -> None:
    """With every language of the highlighter, which nobody ever loads at once."""
    page = [path for path in FOLDER.rglob("*") if path.suffix in CONTENT_TYPES]
    # The API's documentation is a page of its own.
    files = [path for path in page if "rapidoc" not in path.parts and path.name != "docs.html"]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in files) <= BUDGET


def test_every_module_is_preloaded() -> None:
    """Else a tree of imports is found one level per round trip."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    modules = {f"/assets/js/{path.name}" for path in (FOLDER / "assets/js").glob("*.js")} - {"/assets/js/boot.js"}
    assert set(re.findall(r'rel="modulepreload" href="(/assets/js/[^"]+)"', page)) == modules


def test_page_has_no_inline_script_or_style() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_code_uses_no_sink_for_html() -> None:
    for path in (FOLDER / "assets/js").rglob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
        )


async def test_both_languages_have_the_same_words(ada: Somebody) -> None:
    page = await ada.page()
    english, russian = await page.evaluate(
        """async () => {
          const shape = (words) => Object.entries(words).flatMap(([key, value]) => {
            if (key === 'errors') return Object.keys(value).map((code) => `errors.${code}`);
            if (Array.isArray(value)) return [`${key}:${value.length}`];
            const texts = typeof value === 'string' ? [value] : Object.values(value);
            const names = new Set(texts.flatMap((text) => text.match(/\\{\\w+\\}/g) ?? []));
            return [`${key}:${[...names].sort()}:${typeof value}`];
          });
          const read = async (name) => shape((await import(`/assets/js/locales/${name}.js`)).default);
          return Promise.all(['en', 'ru'].map(read));
        }"""
    )
    assert english == russian
    used: set[str] = set()
    for path in (FOLDER / "assets/js").glob("*.js"):
        used |= set(re.findall(r'\bt\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert used <= {entry.partition(":")[0] for entry in english}


NEVER_MET = {
    "invalid_refresh_token",
    "invalid_token",
    "malformed_body",
    "malformed_cursor",
    "method_not_allowed",
    "not_acceptable",
    "token_in_url",
    "unauthenticated",
    "unsupported_media_type",
}


async def test_every_refusal_has_words_in_both_languages(ada: Somebody) -> None:
    """Else a person reads a sentence that was written for programs, in English whatever her language is."""
    page = await ada.page()
    codes = set(re.findall(r'<a id="(\w+)">', (DOCS / "errors.md").read_text(encoding="utf-8")))
    assert len(codes) > 30
    for language in ("en", "ru"):
        script = f"async () => Object.keys((await import('/assets/js/locales/{language}.js')).default.errors)"
        assert codes - NEVER_MET - set(await page.evaluate(script)) == set()


async def test_suggestions_are_in_the_language_of_the_person(ada: Somebody) -> None:
    page = await ada.page()
    words = await page.evaluate("async () => (await import('/assets/js/locales/ru.js')).default")
    for idea in [*words["ideas"], *words["guideIdeas"]]:
        assert re.search("[а-я]", idea)


async def test_code_of_many_screens_can_be_copied_from_its_middle(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, TEXT)
    await answered(page)
    await show_markdown(page, "```python\n" + "print(1)\n" * 200 + "```")
    await page.locator(".thread").evaluate("element => element.scrollTo(0, element.scrollHeight / 2)")
    await expect(page.get_by_role("button", name="Copy the code")).to_be_in_viewport()


async def test_what_was_today_is_yesterday_after_midnight(ada: Somebody) -> None:
    page = await ada.arrive()
    await ask(page, TEXT)
    await answered(page)
    await expect(page.locator(".list-heading")).to_have_text("Today")
    now = datetime.now(UTC)
    await page.clock.install(time=now)
    await page.reload()
    await expect(page.locator(".list-heading")).to_have_text("Today")
    await page.clock.fast_forward(24 * 3600 * 1000)
    await expect(page.locator(".list-heading")).to_have_text("Yesterday")
    await expect(answers(page).locator("time")).to_contain_text("Yesterday, ")
    await expect(answers(page).locator("time")).to_have_attribute("title", re.compile(str(now.year)))


async def test_event_parser_reads_what_the_standard_says(ada: Somebody) -> None:
    """Byte by byte and whole: line ends, comments, a BOM, several data lines, half characters, an unfinished event."""
    page = await ada.page()
    stream = (
        "\ufeffid: 1\r\ndata: one\r\n\r\n: a comment\ndata:two\ndata: lines\n\nevent: other\rdata: é😀\u2028x\r\r"
        "retry: 250\nid: 7\n\nid: a\0b\ndata\n\nnonsense: x\ndata:  spaced\n\ndata: never dispatched\n"
    )
    expected = [
        {"type": "message", "data": "one", "id": "1"},
        {"type": "message", "data": "two\nlines", "id": "1"},
        {"type": "other", "data": "é😀\u2028x", "id": "1"},
        {"type": "message", "data": "", "id": "7"},
        {"type": "message", "data": " spaced", "id": "7"},
    ]
    for size in (1, 3, 10_000):
        events, retries = await page.evaluate(
            """async ([bytes, size]) => {
              const {EventParser} = await import('/assets/js/stream.js');
              const events = [], retries = [];
              const parser = new EventParser((event) => events.push({...event}), (time) => retries.push(time));
              for (let at = 0; at < bytes.length; at += size) parser.push(new Uint8Array(bytes.slice(at, at + size)));
              return [events, retries];
            }""",
            [list(stream.encode()), size],
        )
        assert events == expected
        assert retries == [250]


async def test_phone_is_told_of_no_keys_and_enter_breaks_the_line(new_person: NewPerson) -> None:
    person = await new_person(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = await person.arrive()
    await composer(page).fill("[[rate=30 tokens=100]]")
    await page.keyboard.press("Enter")
    await expect(composer(page)).to_have_value("[[rate=30 tokens=100]]\n")
    await expect(page.locator(".composer-note")).to_be_hidden()
    await page.get_by_role("button", name="Send").tap()
    await expect(answers(page)).to_contain_text("w3")
    await expect(page.locator(".composer-note")).to_be_hidden()
    await page.get_by_role("button", name="Stop the answer").tap()
    await answered(page)


async def test_text_can_be_twice_as_large(new_person: NewPerson) -> None:
    """WCAG 1.4.4: at 200 % nothing is cut off and everything can still be reached."""
    person = await new_person(viewport={"width": 640, "height": 500}, device_scale_factor=2)
    page = await person.arrive()
    await ask(page, TEXT)
    await answered(page)
    assert await page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    await expect(composer(page)).to_be_in_viewport()


async def test_reduced_motion_moves_nothing(ada: Somebody, sql: asyncpg.Connection[Any]) -> None:
    page = await ada.arrive()
    await ask(page, "[[first=2 tokens=3]]")
    await expect(page.locator(".dots")).to_be_visible()
    running = await page.evaluate("() => document.getAnimations().filter((one) => one.playState === 'running').length")
    assert running == 0
    await answered(page)
    assert chat_of(page)
