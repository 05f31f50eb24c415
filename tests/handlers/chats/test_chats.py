"""`/api/v1/chats`: the wire contract of spec §2, versions, the feed, and nothing of anybody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.streaming import wakeups as topics
from llmchatbot.streaming.wakeups import LocalWakeUps

if TYPE_CHECKING:
    from tests.handlers.chats.conftest import Person, QueryRecorder

CHATS = "/api/v1/chats"


def kinds(feed: list[str]) -> list[str]:
    return [msgspec.json.decode(payload)["type"] for payload in feed]


async def all_pages(person: Person, address: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        response = await person.client.get(address)
        assert response.status_code == 200, response.text
        items += response.json()
        if "next" not in response.links:
            return items
        address = response.links["next"]["url"]


async def test_a_chat_has_the_shape_that_the_first_client_knows(ada: Person) -> None:
    created = await ada.create()
    assert list(created) == [
        "id",
        "title",
        "model_used",
        "created_at",
        "updated_at",
        "is_archived",
        "message_count",
        "parameters",
    ]
    assert (created["title"], created["model_used"], created["is_archived"]) == ("New Chat", "", False)
    assert (created["message_count"], created["parameters"]) == (0, {})
    assert created["created_at"].endswith("Z")
    assert (await ada.client.get(CHATS)).json() == [created]
    assert (await ada.client.get(f"{CHATS}/{created['id']}")).json() == created


async def test_the_list_is_newest_updated_at_first(ada: Person) -> None:
    first, second, third = [await ada.create(title) for title in ("first", "second", "third")]
    await ada.client.put(f"{CHATS}/{first['id']}", json={"title": "first again"})
    listed = (await ada.client.get(CHATS)).json()
    assert [chat["title"] for chat in listed] == ["first again", third["title"], second["title"]]


async def test_the_list_without_a_limit_has_fifty(ada: Person) -> None:
    for _ in range(51):
        await ada.create()
    response = await ada.client.get(CHATS)
    assert len(response.json()) == 50
    assert response.links["next"]["url"].startswith("/api/v1/chats?")


async def test_archived_chats_are_listed_only_if_asked_for(ada: Person) -> None:
    kept, gone = await ada.create("kept"), await ada.create("gone")
    answer = await ada.client.delete(f"{CHATS}/{gone['id']}")
    assert (answer.status_code, list(answer.json())) == (200, ["message"])
    assert [chat["id"] for chat in (await ada.client.get(CHATS)).json()] == [kept["id"]]
    both = (await ada.client.get(CHATS, params={"include_archived": "true"})).json()
    assert [(chat["id"], chat["is_archived"]) for chat in both] == [(gone["id"], True), (kept["id"], False)]
    restored = await ada.client.post(f"{CHATS}/{gone['id']}/restore")
    assert (restored.status_code, restored.json()["is_archived"]) == (200, False)
    assert len((await ada.client.get(CHATS)).json()) == 2


async def test_pages_follow_each_other_without_gap_or_double(ada: Person) -> None:
    made = [(await ada.create(f"chat {number}"))["id"] for number in range(7)]
    await ada.client.delete(f"{CHATS}/{made[3]}")
    for address, expected in (
        (f"{CHATS}?limit=2", [one for one in reversed(made) if one != made[3]]),
        (f"{CHATS}?limit=3&include_archived=true", [*reversed(made)]),
    ):
        assert [chat["id"] for chat in await all_pages(ada, address)] == expected


async def test_chats_of_one_moment_are_all_listed(ada: Person, db: Database) -> None:
    made = {(await ada.create())["id"] for _ in range(5)}
    await db.execute("UPDATE chats SET updated_at = now()")
    listed = [chat["id"] for chat in await all_pages(ada, f"{CHATS}?limit=2")]
    assert len(listed) == 5
    assert set(listed) == made


async def test_pages_stay_stable_while_chats_change(ada: Person) -> None:
    made = [(await ada.create())["id"] for _ in range(20)]
    stop = asyncio.Event()

    async def change() -> None:
        """Moves the five oldest to the front, again and again, and makes new ones."""
        while not stop.is_set():
            for chat_id in made[:5]:
                await ada.client.put(f"{CHATS}/{chat_id}", json={"title": "moved"})
            await ada.create()

    changing = asyncio.create_task(change())
    try:
        for _ in range(5):
            seen = [chat["id"] for chat in await all_pages(ada, f"{CHATS}?limit=3")]
            untouched = [chat_id for chat_id in seen if chat_id in made[5:]]
            assert untouched == [*reversed(made[5:])]
    finally:
        stop.set()
        await changing


async def test_a_limit_out_of_bounds_is_refused(ada: Person) -> None:
    for limit in ("0", "101", "-1", "x", "1.5"):
        answer = await ada.client.get(CHATS, params={"limit": limit})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "limit"


async def test_a_cursor_that_is_not_ours_is_refused(ada: Person) -> None:
    for cursor in ("x", "AAAA", "YwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "é", "c" * 64):
        answer = await ada.client.get(CHATS, params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_cursor")


async def test_parameters_are_kept_and_unknown_ones_refused(ada: Person) -> None:
    parameters = {
        "system_prompt": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 100,
        "stop": ["END"],
        "seed": 7,
        "reasoning_effort": "low",
    }
    created = await ada.create(parameters=parameters, model_used="a model")
    assert (created["parameters"], created["model_used"]) == (parameters, "a model")
    address = f"{CHATS}/{created['id']}"
    assert (await ada.client.put(address, json={"title": "t"})).json()["parameters"] == parameters
    assert (await ada.client.put(address, json={"parameters": {"seed": 1}})).json()["parameters"] == {"seed": 1}
    for wrong in (
        {"temperature": 2.1},
        {"top_p": -0.1},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"reasoning_effort": "huge"},
        {"seed": 1 << 70},
        {"top_k": 1},
        {"system_prompt": 3},
    ):
        answer = await ada.client.put(address, json={"parameters": wrong})
        assert (answer.status_code, bool(answer.json()["errors"])) == (400, True), wrong
    nul = await ada.client.put(address, json={"parameters": {"system_prompt": "\x00"}})
    assert (nul.status_code, nul.json()["errors"][0]["field"]) == (422, "parameters")


async def test_what_a_new_chat_may_say(ada: Person) -> None:
    cases: list[tuple[Any, int]] = [
        ({"title": "x" * 255}, 201),
        ({"title": None, "model_used": None}, 201),
        ({}, 201),
        ({"title": "x" * 256}, 400),
        ({"title": 5}, 400),
        ({"user_id": "x"}, 400),
        ({"title": "a\x00b"}, 422),
        ([], 400),
    ]
    for body, status in cases:
        assert (await ada.client.post(CHATS, json=body)).status_code == status, body


async def test_a_named_chat_keeps_its_name_and_others_get_one_later(ada: Person, db: Database) -> None:
    await ada.create("named")
    await ada.create("  ")
    await ada.create("New Chat")
    sources = await db.fetch("SELECT title, title_source FROM chats ORDER BY created_at")
    assert [tuple(row) for row in sources] == [("named", "user"), ("New Chat", "default"), ("New Chat", "default")]


async def test_a_chat_cannot_lose_its_name(ada: Person) -> None:
    """A blank title would leave a row in every list that nobody can see or click."""
    created = await ada.create("t")
    for blank in ("", "  ", "\n\u3000"):
        answer = await ada.client.put(f"{CHATS}/{created['id']}", json={"title": blank})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "title"), repr(blank)
    answer = await ada.client.put(f"{CHATS}/{created['id']}", json={"title": " new "})
    assert answer.json()["title"] == "new"


async def test_a_change_that_says_nothing_changes_nothing(ada: Person) -> None:
    created = await ada.create("t")
    answer = await ada.client.put(f"{CHATS}/{created['id']}", json={})
    assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, created, '"1"')
    assert kinds(await ada.feed()) == ["chat.created"]


async def test_if_match_lets_only_the_present_version_through(ada: Person) -> None:
    created = await ada.create()
    address = f"{CHATS}/{created['id']}"
    etag = (await ada.client.get(address)).headers["etag"]
    changed = await ada.client.put(address, json={"title": "a"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    for method, path in (("PUT", ""), ("DELETE", ""), ("POST", "/restore"), ("DELETE", "/permanent")):
        body = {"title": "b"} if method == "PUT" else None
        stale = await ada.client.request(method, address + path, headers={"If-Match": etag}, json=body)
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed"), path
    weak = await ada.client.put(address, json={"title": "b"}, headers={"If-Match": 'W/"2"'})
    assert weak.status_code == 412, "If-Match compares strongly, RFC 9110 §13.1.1"
    listed = await ada.client.put(address, json={"title": "b"}, headers={"If-Match": '"9", "2"'})
    assert listed.status_code == 200
    assert (await ada.client.put(address, json={"title": "c"}, headers={"If-Match": "*"})).status_code == 200
    missing = await ada.client.put(f"{CHATS}/{uuid4()}", json={"title": "c"}, headers={"If-Match": '"1"'})
    assert missing.status_code == 404


async def test_of_twenty_changes_with_one_version_exactly_one_wins(ada: Person) -> None:
    created = await ada.create()
    address = f"{CHATS}/{created['id']}"
    answers = await asyncio.gather(
        *(ada.client.put(address, json={"title": f"t{n}"}, headers={"If-Match": '"1"'}) for n in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    winner = next(answer.json()["title"] for answer in answers if answer.status_code == 200)
    assert (await ada.client.get(address)).json()["title"] == winner
    assert kinds(await ada.feed()) == ["chat.created", "chat.updated"]


async def test_archiving_and_restoring_twice_is_once(ada: Person) -> None:
    created = await ada.create()
    address = f"{CHATS}/{created['id']}"
    for _ in range(2):
        assert (await ada.client.delete(address)).status_code == 200
    for _ in range(2):
        assert (await ada.client.post(f"{address}/restore")).headers["etag"] == '"3"'
    assert kinds(await ada.feed()) == ["chat.created", "chat.archived", "chat.updated"]


async def test_bulk_routes_do_what_they_can_and_pass_over_the_rest(ada: Person, bob: Person) -> None:
    mine = [(await ada.create())["id"] for _ in range(3)]
    foreign, missing = (await bob.create())["id"], str(uuid4())
    await bob.client.delete(f"{CHATS}/{foreign}")
    for chat_id in mine[:2]:
        await ada.client.delete(f"{CHATS}/{chat_id}")
    restored = await ada.client.post(f"{CHATS}/restore", json={"ids": [*mine, foreign, missing]})
    assert (restored.status_code, sorted(restored.json()["ids"])) == (200, mine[:2])
    deleted = await ada.client.post(f"{CHATS}/delete", json={"ids": [mine[0], mine[2], foreign, missing, mine[0]]})
    assert (deleted.status_code, sorted(deleted.json()["ids"])) == (200, [mine[0], mine[2]])
    assert [chat["id"] for chat in (await ada.client.get(CHATS)).json()] == [mine[1]]
    assert len((await bob.client.get(CHATS, params={"include_archived": "true"})).json()) == 1
    assert kinds(await ada.feed())[5:] == ["chat.updated"] * 2 + ["chat.deleted"] * 2
    for ids in ([], ["x"], [mine[0]] * 101):
        assert (await ada.client.post(f"{CHATS}/delete", json={"ids": ids})).status_code == 400


async def test_deleting_for_good_takes_messages_along_and_stops_the_answer(
    ada: Person, db: Database, wakeups: LocalWakeUps
) -> None:
    stopped: list[str] = []
    wakeups.subscribe(topics.STOP, stopped.append)
    created = await ada.create()
    generation_id = new_id()
    question = await ada.say(created["id"], "q")
    answer = await ada.say(
        created["id"], "", role="assistant", parent=question, status="streaming", generation_id=generation_id
    )
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, status, model) "
        "VALUES ($1, $2, $3, $4, $5, 'running', 'm')",
        generation_id,
        ada.user_id,
        UUID(created["id"]),
        answer,
        question,
    )
    wrong = await ada.client.delete(f"{CHATS}/{created['id']}/permanent", headers={"If-Match": '"9"'})
    assert (wrong.status_code, stopped) == (412, [])
    gone = await ada.client.delete(f"{CHATS}/{created['id']}/permanent")
    assert (gone.status_code, stopped) == (200, [str(generation_id)])
    assert (await ada.client.delete(f"{CHATS}/{created['id']}/permanent")).status_code == 404
    for table in ("chats", "messages", "generations"):
        assert await db.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert msgspec.json.decode((await ada.feed())[-1]) == {"type": "chat.deleted", "chat_id": created["id"]}


async def test_each_change_is_in_the_feed_and_wakes_the_other_devices(ada: Person, wakeups: LocalWakeUps) -> None:
    woken: list[str] = []
    wakeups.subscribe(topics.USER_EVENT, woken.append)
    created = await ada.create("é\u2028")
    address = f"{CHATS}/{created['id']}"
    await ada.client.put(address, json={"title": "t"})
    await ada.client.delete(address)
    await ada.client.delete(f"{address}/permanent")
    feed = await ada.feed()
    assert kinds(feed) == ["chat.created", "chat.updated", "chat.archived", "chat.deleted"]
    assert all(payload.isascii() for payload in feed)
    assert msgspec.json.decode(feed[0]) == {"type": "chat.created", "chat_id": created["id"], "chat": created}
    assert woken == [str(ada.user_id)] * 4


async def test_the_feed_is_dense_under_concurrency(ada: Person, db: Database) -> None:
    await asyncio.gather(*(ada.create() for _ in range(30)))
    numbers = await db.fetch("SELECT seq FROM user_events WHERE user_id = $1 ORDER BY seq", ada.user_id)
    assert [row["seq"] for row in numbers] == [*range(30)]


async def test_nothing_of_another_person_can_be_told_from_nothing(ada: Person, bob: Person, db: Database) -> None:
    theirs = (await bob.create("secret"))["id"]
    message_id = await bob.say(theirs, "secret words")
    mine = (await ada.create("mine"))["id"]
    before = await db.fetch("SELECT * FROM chats WHERE user_id = $1", bob.user_id)
    for method, path, body in (
        ("GET", "", None),
        ("GET", "?include_messages=true", None),
        ("PUT", "", {"title": "x"}),
        ("PUT", "", {}),
        ("DELETE", "", None),
        ("POST", "/restore", None),
        ("DELETE", "/permanent", None),
        ("GET", "/messages", None),
        ("GET", "/messages?branch=all&order=desc", None),
        ("PUT", "/leaf", {"message_id": str(message_id)}),
    ):
        answers = []
        for chat_id in (theirs, str(uuid4())):
            answer = await ada.client.request(method, f"{CHATS}/{chat_id}{path}", json=body)
            answers.append((answer.status_code, answer.json(), sorted(answer.headers)))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] == 404
    foreign_leaf = await ada.client.put(f"{CHATS}/{mine}/leaf", json={"message_id": str(message_id)})
    assert foreign_leaf.status_code == 404
    assert [chat["id"] for chat in (await ada.client.get(CHATS)).json()] == [mine]
    assert await db.fetch("SELECT * FROM chats WHERE user_id = $1", bob.user_id) == before


async def test_without_a_token_there_is_no_answer(ada: Person) -> None:
    ada.client.headers.pop("Authorization")
    chat_id = uuid4()
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", f"/{chat_id}"),
        ("PUT", f"/{chat_id}"),
        ("DELETE", f"/{chat_id}"),
        ("GET", f"/{chat_id}/messages"),
        ("PUT", f"/{chat_id}/leaf"),
        ("POST", "/delete"),
        ("POST", "/restore"),
    ):
        assert (await ada.client.request(method, CHATS + path)).status_code == 401


async def test_statements_per_request_do_not_grow_with_the_rows(ada: Person, recorder: QueryRecorder) -> None:
    chat_id = (await ada.create())["id"]
    await ada.talk(chat_id, 20)
    for _ in range(10):
        await ada.create()
    with recorder.expecting(1):
        await ada.client.get(CHATS)
    with recorder.expecting(1):
        await ada.client.get(f"{CHATS}/{chat_id}")
    with recorder.expecting(2):
        await ada.client.get(f"{CHATS}/{chat_id}?include_messages=true")
    with recorder.expecting(1):
        await ada.client.get(f"{CHATS}/{chat_id}/messages")
    with recorder.expecting(1):
        await ada.client.get("/api/v1/search?q=text")
    with recorder.expecting(2):
        await ada.create()
    with recorder.expecting(3):
        await ada.client.put(f"{CHATS}/{chat_id}", json={"title": "t"})
