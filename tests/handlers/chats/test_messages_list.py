"""`GET /chats/{id}/messages`: branches of a tree, page by page, and the text of an answer that is still being made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.streaming import payloads

if TYPE_CHECKING:
    from tests.handlers.chats.conftest import Person, QueryRecorder

CHATS = "/api/v1/chats"


async def ids(person: Person, address: str) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    while True:
        response = await person.client.get(address)
        assert response.status_code == 200, response.text
        found += [message["id"] for message in response.json()]
        if "next" not in response.links:
            return found
        address = response.links["next"]["url"]


async def test_a_message_has_the_shape_that_the_first_client_knows(ada: Person, db: Database) -> None:
    chat = await ada.create()
    question = await ada.say(chat["id"], "q")
    answer = await ada.say(chat["id"], "a", role="assistant", parent=question, status="stopped")
    await db.execute("UPDATE messages SET reasoning = 'because', tokens = 7, model = 'm' WHERE id = $1", answer)
    first, second = (await ada.client.get(f"{CHATS}/{chat['id']}/messages")).json()
    assert {key: value for key, value in first.items() if key != "created_at"} == {
        "id": str(question),
        "role": "user",
        "content": "q",
        "tokens": 0,
        "is_incomplete": False,
        "sequence_number": 1,
        "parent_id": None,
        "status": "completed",
        "model": "",
        "generation_id": None,
    }
    assert (second["parent_id"], second["is_incomplete"], second["status"]) == (str(question), True, "stopped")
    assert (second["reasoning"], second["tokens"], second["model"], second["sequence_number"]) == ("because", 7, "m", 2)
    assert first["created_at"].endswith("Z")


async def test_include_messages_adds_the_current_branch_oldest_first(ada: Person) -> None:
    chat = await ada.create()
    address = f"{CHATS}/{chat['id']}"
    assert (await ada.client.get(f"{address}?include_messages=true")).json()["messages"] == []
    said = await ada.talk(chat["id"], 5)
    other = await ada.say(chat["id"], "another answer", role="assistant", parent=said[2])
    body = (await ada.client.get(f"{address}?include_messages=true")).json()
    assert [message["id"] for message in body["messages"]] == [*map(str, said[:3]), str(other)]
    assert body["message_count"] == 6
    assert "messages" not in (await ada.client.get(address)).json()


async def test_pages_of_a_branch_with_forks_are_the_branch(ada: Person) -> None:
    chat = await ada.create()
    trunk = await ada.talk(chat["id"], 6)
    left = await ada.talk(chat["id"], 4, parent=trunk[3])
    right = await ada.talk(chat["id"], 3, parent=left[1])
    branch = [*trunk[:4], *left[:2], *right]
    everything = [str(one) for one in [*trunk, *left, *right]]
    for limit in (1, 2, 3, 7, 100):
        address = f"{CHATS}/{chat['id']}/messages?limit={limit}"
        assert await ids(ada, address) == [str(one) for one in branch]
        assert await ids(ada, f"{address}&order=desc") == [str(one) for one in reversed(branch)]
        assert await ids(ada, f"{address}&branch=all") == everything
        assert await ids(ada, f"{address}&branch=all&order=desc") == [*reversed(everything)]


async def test_a_branch_is_the_chain_of_parents_whatever_the_tree(ada: Person, db: Database) -> None:
    """Against the definition: link by link from the leaf, in a tree where every kind of fork occurs."""
    chat = await ada.create()
    said: list[Any] = []
    parents: dict[Any, Any] = {}
    for number in range(60):
        # Mostly the newest, now and then an older one or a new beginning.
        parent = None if number % 17 == 0 else said[(number * 7) % len(said)] if number % 5 == 0 else said[-1]
        said.append(await ada.say(chat["id"], str(number), parent=parent))
        parents[said[-1]] = parent
    for leaf in said:
        await db.execute("UPDATE chats SET leaf_id = $1", leaf)
        expected, at = [], leaf
        while at is not None:
            expected.append(str(at))
            at = parents[at]
        assert await ids(ada, f"{CHATS}/{chat['id']}/messages?order=desc&limit=100") == expected
        assert await ids(ada, f"{CHATS}/{chat['id']}/messages?limit=9") == expected[::-1]


async def test_a_page_of_ten_thousand_messages_is_read_as_ranges(ada: Person, db: Database) -> None:
    chat = await ada.create()
    await db.execute(
        "INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role, content) "
        "SELECT lpad(to_hex(n), 32, '0')::uuid, c.id, c.user_id, "
        "CASE WHEN n > 1 THEN lpad(to_hex(n - 1), 32, '0')::uuid END, n, 'user', n::text "
        "FROM chats c, generate_series(1, 10000) n"
    )
    await db.execute("UPDATE chats SET leaf_id = lpad(to_hex(10000), 32, '0')::uuid, last_sequence = 10000")
    assert await db.fetchval("SELECT count(*) FROM messages WHERE run_start <> 1") == 0
    newest = (await ada.client.get(f"{CHATS}/{chat['id']}/messages?order=desc&limit=3")).json()
    assert [message["content"] for message in newest] == ["10000", "9999", "9998"]
    first = await ada.client.get(f"{CHATS}/{chat['id']}/messages?limit=100")
    assert [message["sequence_number"] for message in first.json()] == [*range(1, 101)]
    second = (await ada.client.get(first.links["next"]["url"])).json()
    assert [message["sequence_number"] for message in second] == [*range(101, 201)]


async def test_pages_go_on_where_they_ended_while_messages_come(ada: Person) -> None:
    chat = await ada.create()
    said = await ada.talk(chat["id"], 6)
    address = f"{CHATS}/{chat['id']}/messages?limit=3"
    newest = await ada.client.get(f"{address}&order=desc")
    oldest = await ada.client.get(address)
    added = await ada.say(chat["id"], "one more", parent=said[-1])
    assert await ids(ada, newest.links["next"]["url"]) == [str(one) for one in said[2::-1]]
    assert await ids(ada, oldest.links["next"]["url"]) == [str(one) for one in [*said[3:], added]]


async def test_an_answer_in_the_making_shows_its_text_so_far(
    ada: Person, db: Database, recorder: QueryRecorder
) -> None:
    chat = await ada.create()
    question = await ada.say(chat["id"], "q")
    generation_id = new_id()
    await ada.say(chat["id"], "", role="assistant", parent=question, status="streaming", generation_id=generation_id)
    events = [
        payloads.encode({"type": "start"}),
        payloads.token("wrong"),
        payloads.reset("caf"),
        payloads.reasoning("hm"),
        payloads.token("é \U0001f600"),
    ]
    for seq, payload in enumerate(events):
        await db.execute("INSERT INTO generation_events VALUES ($1, $2, $3)", generation_id, seq, payload)
    with recorder.expecting(2):
        shown = (await ada.client.get(f"{CHATS}/{chat['id']}/messages")).json()[-1]
    assert (shown["content"], shown["status"], shown["is_incomplete"]) == ("café \U0001f600", "streaming", True)
    body = (await ada.client.get(f"{CHATS}/{chat['id']}?include_messages=true")).json()
    assert body["messages"][-1] == shown


async def test_switching_the_branch_goes_to_its_newest_end(ada: Person) -> None:
    chat = await ada.create()
    trunk = await ada.talk(chat["id"], 4)
    other = await ada.talk(chat["id"], 3, parent=trunk[0])
    address = f"{CHATS}/{chat['id']}"
    assert await ids(ada, f"{address}/messages") == [str(one) for one in [trunk[0], *other]]
    answer = await ada.client.put(f"{address}/leaf", json={"message_id": str(trunk[1])})
    assert (answer.status_code, answer.json()["id"]) == (200, chat["id"])
    assert await ids(ada, f"{address}/messages") == [str(one) for one in trunk]
    await ada.client.put(f"{address}/leaf", json={"message_id": str(trunk[0])})
    assert await ids(ada, f"{address}/messages") == [str(one) for one in [trunk[0], *other]]
    assert (await ada.client.put(f"{address}/leaf", json={"message_id": str(uuid4())})).status_code == 404
    assert (await ada.client.put(f"{address}/leaf", json={"message_id": "x"})).status_code == 400


async def test_a_message_of_another_chat_is_no_branch_of_this_one(ada: Person) -> None:
    one, two = await ada.create(), await ada.create()
    (message_id,) = await ada.talk(two["id"], 1)
    answer = await ada.client.put(f"{CHATS}/{one['id']}/leaf", json={"message_id": str(message_id)})
    assert answer.status_code == 404


async def test_wrong_queries_are_refused(ada: Person) -> None:
    chat = await ada.create()
    for query in ("order=up", "branch=mine", "limit=0", "limit=101", "cursor=x", "cursor=bQ"):
        assert (await ada.client.get(f"{CHATS}/{chat['id']}/messages?{query}")).status_code == 400, query


async def test_a_cursor_of_one_list_is_no_cursor_of_another(ada: Person) -> None:
    for _ in range(2):
        chat = await ada.create()
    link = (await ada.client.get(f"{CHATS}?limit=1")).links["next"]["url"]
    cursor = link.split("cursor=")[1].split("&")[0]
    for address in (f"{CHATS}/{chat['id']}/messages", "/api/v1/search?q=a"):
        answer = await ada.client.get(address, params={"q": "a", "cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_cursor")


async def test_many_messages_in_one_statement_know_their_runs_too(ada: Person, db: Database) -> None:
    """The trigger sees rows of the same statement; a row that it could not see would only cost one more hop."""
    chat = await ada.create()
    await ada.talk(chat["id"], 2)
    await db.execute(
        "INSERT INTO messages (id, chat_id, user_id, parent_id, sequence_number, role) "
        "SELECT lpad(n::text, 32, '0')::uuid, c.id, c.user_id, lpad((n - 1)::text, 32, '0')::uuid, n, 'user' "
        "FROM chats c, generate_series(3, 6) n"
    )
    runs = await db.fetch("SELECT run_start FROM messages ORDER BY sequence_number")
    assert [row["run_start"] for row in runs] == [1, 1, 3, 3, 3, 3]
