"""`GET /search`: any language, prefix of the last word, one's own rows, hits marked, keyset pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.handlers.chats.conftest import Person

SEARCH = "/api/v1/search"


async def find(person: Person, question: str, **parameters: Any) -> list[dict[str, Any]]:
    response = await person.client.get(SEARCH, params={"q": question, **parameters})
    assert response.status_code == 200, response.text
    hits: list[dict[str, Any]] = response.json()
    return hits


def shown(hits: list[dict[str, Any]]) -> list[str]:
    """Snippets with readable marks."""
    return [hit["snippet"].replace("\x02", "[").replace("\x03", "]") for hit in hits]


FOUND = [
    ("The quick brown fox", "quick fo", "The [quick] brown [fox]"),
    ("The quick brown fox", "QUICK", "The [quick] brown fox"),
    ("Es grüßt die Übung", "übung", "Es grüßt die [Übung]"),
    ("Съешь ещё этих мягких булок", "МЯГК", "Съешь ещё этих [мягких] булок"),
    ("Καλημέρα κόσμε", "κόσμε καλημ", "[Καλημέρα] [κόσμε]"),
    ("هذا نص عربي قصير", "عربي", "هذا نص [عربي] قصير"),
    ("यह हिन्दी है", "हिन्दी", "यह [हिन्दी] है"),
    ("私は日本語を話します", "日本語", "私は[日本語]を話します"),
    ("私は日本語を話します", "本", "私は日[本]語を話します"),
    ("我喜欢吃苹果和香蕉", "苹果", "我喜欢吃[苹果]和香蕉"),
    ("我喜欢吃苹果和香蕉", "香蕉 苹果", "我喜欢吃[苹果]和[香蕉]"),
    ("ฉันพูดภาษาไทยได้", "ภาษาไทย", "ฉันพูด[ภาษาไทย]ได้"),
    ("학교에서 공부합니다", "공부", "학교에서 [공부]합니다"),
    ("Python言語の入門", "python 言語", "[Python][言語]の入門"),
    ("ｆｕｌｌ width", "full", "[ｆｕｌｌ] width"),
    ("write to ada@example.com now", "example", "write to ada@[example].com now"),
    ("write to ada@example.com now", "ada@example.c", "write to [ada]@[example].[com] now"),
    ("see http://a.example/some-page?x=1", "some-pa", "see http://a.example/[some]-[page]?x=1"),
    ("std::vector<int> v", "int", "std::vector<[int]> v"),
    ("call foo_bar(x)", "bar", "call foo_[bar](x)"),
    ("5 < 6 & 7 > 2", "7", "5 < 6 & [7] > 2"),
    ("it's café time", "cafe\u0301", "it's [café] time"),
    ("marks \x02 of our own \x03 vanish", "vanish", "marks of our own [vanish]"),
]
NOT_FOUND = [
    ("The quick brown fox", "qui fox"),  # only the last word may go on
    ("The quick brown fox", "uick"),
    ("The quick brown fox", "quick cat"),
    ("私は日本語を話します", "日語"),
    ("私は日本語を話します", "語本"),
]
HARMLESS = [
    "'",
    "' | 'x",
    "a & b | !c",
    "<->",
    ":*",
    "\\",
    "''; --",
    "(",
    "a:*b",
    "%",
    "\u3000",
    "!!",
    "\u200b",
    "\x7f",
    "x" * 200,
]


# One database for all cases of a kind: making one takes longer than a search.
async def test_any_language_is_found_and_marked(ada: Person) -> None:
    for text, question, snippet in FOUND:
        chat = await ada.create("a title")
        await ada.say(chat["id"], text)
        assert shown(await find(ada, question)) == [snippet]
        await ada.client.delete(f"/api/v1/chats/{chat['id']}/permanent")


async def test_what_does_not_fit_is_not_found(ada: Person) -> None:
    chat = await ada.create("a title")
    for text in {text for text, _ in NOT_FOUND}:
        await ada.say(chat["id"], text)
    for _, question in NOT_FOUND:
        assert await find(ada, question) == []


async def test_no_question_is_a_syntax_error(ada: Person) -> None:
    await ada.say((await ada.create("t"))["id"], "nothing of that kind")
    for question in HARMLESS:
        assert await find(ada, question) == []


async def test_a_question_out_of_bounds_is_refused(ada: Person) -> None:
    for parameters, status in (({"q": ""}, 400), ({"q": "x" * 201}, 400), ({"q": "a\x00"}, 422), ({}, 400)):
        answer = await ada.client.get(SEARCH, params=parameters)
        assert answer.status_code == status
        assert answer.json()["errors"][0]["field"] == "q"


async def test_a_hit_says_where_it_is(ada: Person) -> None:
    chat = await ada.create("A walk in Lisbon")
    question = await ada.say(chat["id"], "what to see")
    answer = await ada.say(chat["id"], "Lisbon has hills", role="assistant", parent=question)
    await ada.client.delete(f"/api/v1/chats/{chat['id']}")
    by_message, by_title = await find(ada, "lisbon")
    assert by_message.pop("created_at") > by_title.pop("created_at")
    assert by_message == {
        "kind": "message",
        "chat_id": chat["id"],
        "title": "A walk in Lisbon",
        "is_archived": True,
        "message_id": str(answer),
        "role": "assistant",
        "sequence_number": 2,
        "snippet": "\x02Lisbon\x03 has hills",
    }
    assert by_title == {
        "kind": "chat",
        "chat_id": chat["id"],
        "title": "A walk in Lisbon",
        "is_archived": True,
        "message_id": None,
        "role": None,
        "sequence_number": None,
        "snippet": "A walk in \x02Lisbon\x03",
    }


async def test_a_long_text_shows_the_part_with_the_first_hit(ada: Person) -> None:
    chat = await ada.create("t")
    await ada.say(chat["id"], "filling " * 500 + "the needle lies\nhere " + "filling " * 500)
    (snippet,) = shown(await find(ada, "needle"))
    assert "the [needle] lies here" in snippet
    assert snippet.startswith("…")
    assert snippet.endswith("…")
    assert len(snippet) < 260


async def test_a_word_is_shown_rather_than_a_part_of_one(ada: Person) -> None:
    chat = await ada.create("t")
    await ada.say(chat["id"], "restarting " + "filling " * 100 + "art is long")
    assert "[art] is long" in shown(await find(ada, "art"))[0]


async def test_only_own_rows_are_found(ada: Person, bob: Person) -> None:
    chat = await bob.create("secret title")
    await bob.say(chat["id"], "secret words")
    assert await find(ada, "secret") == []
    assert len(await find(bob, "secret")) == 2


async def test_owners_with_the_same_mark_in_the_index_are_told_apart(ada: Person, bob: Person, db: Any) -> None:
    """Terms begin with the last 32 bits of the owner's id only: a collision must not show a foreign row."""
    twin = f"{'0' * 24}{str(bob.user_id)[-8:]}"
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1::text::uuid, 't', 't')", twin)
    chat = await ada.create("secret title")
    await ada.say(chat["id"], "secret words")
    await db.execute("UPDATE chats SET user_id = $1::text::uuid", twin)
    await db.execute("UPDATE messages SET user_id = $1::text::uuid", twin)
    assert (
        await db.fetchval(
            "SELECT count(*) FROM messages WHERE search_vector(user_id, content) @@ search_query($1, 'secret')",
            bob.user_id,
        )
        == 1
    )
    assert await find(bob, "secret") == []


async def test_pages_of_hits_follow_each_other_while_new_ones_come(ada: Person) -> None:
    chat = await ada.create("apple pie")
    said = [str(one) for one in await ada.talk(chat["id"], 6)]
    response = await ada.client.get(SEARCH, params={"q": "text", "limit": 4})
    found = [hit["message_id"] for hit in response.json()]
    await ada.say(chat["id"], "text of later")
    while "next" in response.links:
        response = await ada.client.get(response.links["next"]["url"])
        found += [hit["message_id"] for hit in response.json()]
    assert found == said[::-1]


async def test_titles_and_messages_share_the_pages(ada: Person) -> None:
    for number in range(3):
        chat = await ada.create(f"plum {number}")
        await ada.say(chat["id"], f"plum in a message {number}")
    response = await ada.client.get(SEARCH, params={"q": "plu", "limit": 1})
    found = response.json()
    while "next" in response.links:
        response = await ada.client.get(response.links["next"]["url"])
        found += response.json()
    assert [hit["kind"] for hit in found] == ["message", "chat"] * 3


async def test_a_changed_title_is_found_by_its_new_words_alone(ada: Person) -> None:
    chat = await ada.create("pear")
    await ada.client.put(f"/api/v1/chats/{chat['id']}", json={"title": "quince"})
    assert await find(ada, "pear") == []
    assert len(await find(ada, "quince")) == 1


RICH = {
    "pairs": "".join(chr(0x20000 + n) for n in range(60_000)),
    "single": " ".join(chr(0x20000 + n) for n in range(60_000)),
    "threes": "".join(chr(0x20000 + n) + " " * (n % 3 == 0) for n in range(60_000)),
    "words": " ".join(f"{n:x}" for n in range(60_000)),
    "expanding": "\ufdfa" * 60_000,
    "hyphens": "a-" * 50_000,
}


async def test_no_text_is_too_rich_for_the_index(ada: Person) -> None:
    """PostgreSQL refuses a tsvector beyond 1 MB: a message must never fail because of its words."""
    for name, text in RICH.items():
        chat = await ada.create("untitled")
        await ada.say(chat["id"], text)
        assert len(await find(ada, text[:3])) == 1, name
        await ada.client.delete(f"/api/v1/chats/{chat['id']}/permanent")


async def test_a_word_without_end_is_stored_and_not_indexed(ada: Person) -> None:
    chat = await ada.create("a title")
    await ada.say(chat["id"], "before " + "x" * 100_000)
    assert await find(ada, "xxx") == []
    assert len(await find(ada, "before")) == 1
