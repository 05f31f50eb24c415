"""Sending through a real process: protocol §2, rule by rule."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from nodes import Event, Node, Person, read_events, text_of

StartNode = Callable[..., Awaitable[Node]]

SLOW = "[[rate=20 tokens=400]]"
SHORT = "[[rate=0 tokens=20]]"


async def get_stream(
    person: Person,
    chat: str,
    message: str,
    *,
    until: int | None = None,
    query: str = "",
    last: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, list[Event]]:
    """The GET form, as the first web client uses it."""
    events: list[Event] = []
    async with person.stream(
        f"/api/v1/stream/chat/{chat}?message={quote(message)}{query}", last=last, headers=headers
    ) as response:
        if response.status == 200:
            async for event in read_events(response):
                events.append(event)
                if until is not None and len(events) >= until:
                    break
        return response.status, events


async def scripted_chat(person: Person) -> str:
    """GET names no model, so the chat does."""
    return await person.chat(model_used="scripted")


async def test_post_with_accept_streams_at_once(person: Person) -> None:
    chat = await person.chat()
    async with person.session.post(
        f"{person.node.base}/api/v1/chats/{chat}/messages",
        json={"content": SHORT, "model": "scripted"},
        headers=person.headers(Accept="text/event-stream"),
    ) as response:
        assert response.status == 200
        events = [event async for event in read_events(response)]
    assert events[0]["type"] == "start"
    assert events[-1]["type"] == "complete"


async def test_same_key_same_body_joins_the_same_answer(person: Person) -> None:
    chat = await person.chat()
    headers = {"Idempotency-Key": "one-intent"}
    body = {"content": SLOW, "model": "scripted"}
    path = f"/api/v1/chats/{chat}/messages"
    first = await person.request("POST", path, body, headers=headers)
    second = await person.request("POST", path, body, headers=headers)
    assert first[1]["generation"]["id"] == second[1]["generation"]["id"]
    await person.request("POST", f"/api/v1/generations/{first[1]['generation']['id']}/stop")
    async with person.session.post(person.node.base + path, json=body, headers=person.headers(**headers)) as response:
        assert response.headers["Idempotency-Replayed"] == "true"
    assert len(await person.messages(chat)) == 2


async def test_same_key_other_body_is_422_and_changes_nothing(person: Person) -> None:
    chat = await person.chat()
    await person.events(await person.start(chat, SHORT, request_id="k"))
    status, body = await person.send(chat, "something else", request_id="k")
    assert (status, body["code"]) == (422, "idempotency_key_reused")
    assert len(await person.messages(chat)) == 2


async def test_key_survives_a_token_refresh(person: Person) -> None:
    """Matrix: the scope of a key is the person, not the access token."""
    chat = await person.chat()
    first = await person.start(chat, SHORT, request_id="k")
    _, tokens = await person.request("POST", "/api/v1/auth/refresh", {"refresh_token": person.refresh_token})
    person.token = tokens["access_token"]
    assert await person.start(chat, SHORT, request_id="k") == first


async def test_refusal_by_validation_is_not_kept(person: Person) -> None:
    chat = await person.chat()
    status, _ = await person.send(chat, "", request_id="k")
    assert status == 400
    await person.start(chat, SHORT, request_id="k")


@pytest.mark.parametrize("key", ["", "with space", "é", "x" * 256])
async def test_keys_are_1_to_255_visible_ascii_characters(person: Person, key: str) -> None:
    status, body = await person.send(await person.chat(), SHORT, request_id=key)
    assert status == 400
    assert body["errors"][0]["field"] == "request_id"


async def test_second_try_of_a_second_answer_joins_it(person: Person) -> None:
    """Every write has a key (protocol §6): a lost answer to `regenerate` and its repetition are one sibling."""
    chat = await person.chat()
    _, first = await person.send(chat, SHORT)
    await person.events(first["generation"]["id"])
    path = f"/api/v1/chats/{chat}/messages/{first['generation']['message_id']}/regenerate"
    again = [await person.request("POST", path, {}, headers={"Idempotency-Key": "again"}) for _ in range(2)]
    assert [status for status, _ in again] == [201, 201]
    assert again[0][1]["generation"]["id"] == again[1][1]["generation"]["id"]
    assert again[0][1]["message"] == again[1][1]["message"] == first["message"]
    assert len(await person.messages(chat)) == 3


async def test_sent_message_has_the_shape_of_every_message(person: Person) -> None:
    """spec §2."""
    chat = await person.chat()
    _, sent = await person.send(chat, SHORT)
    stored = (await person.messages(chat))[0]
    assert sent["message"] == {name: stored[name] for name in sent["message"]}
    assert set(sent["message"]) == {
        *("id", "role", "content", "tokens", "is_incomplete", "created_at", "sequence_number")
    }


async def test_double_click_is_one_message(person: Person) -> None:
    """LibreChat #14339: duplicate messages, double billing."""
    chat = await person.chat()
    answers = await asyncio.gather(*(person.send(chat, SHORT, request_id="click") for _ in range(10)))
    assert {status for status, _ in answers} == {201}
    assert len({body["generation"]["id"] for _, body in answers}) == 1
    assert len(await person.messages(chat)) == 2


async def test_last_event_id_never_creates(person: Person) -> None:
    """omni #327: a reconnect after the stream's end started a second generation."""
    chat = await scripted_chat(person)
    _, events = await get_stream(person, chat, SHORT)
    before = await person.messages(chat)
    for last in (events[0].id, events[-1].id, f"{events[0]['generation_id']}.99999"):
        await get_stream(person, chat, SHORT, last=last)
        await get_stream(person, chat, SHORT, query=f"&last_event_id={last}")
    status, _ = await get_stream(person, chat, SHORT, last=events[-1].id)
    assert status == 204
    assert await person.messages(chat) == before


@pytest.mark.parametrize("what", ["send", "regenerate"])
async def test_last_event_id_never_creates_by_post_either(person: Person, what: str) -> None:
    """Clients that stream by POST, as fetch-event-source does, repeat the whole request with the place they are at."""
    chat = await person.chat()
    generation = await person.start(chat, SHORT)
    await person.events(generation)
    path = f"/api/v1/chats/{chat}/messages"
    if what == "regenerate":
        path += f"/{(await person.messages(chat))[-1]['id']}/regenerate"
    body = {"content": SHORT, "model": "scripted"} if what == "send" else {"model": "scripted"}

    async def post(last: str) -> tuple[int, list[Event]]:
        headers = person.headers(Accept="text/event-stream", **({"Last-Event-ID": last} if last else {}))
        async with person.session.post(person.node.base + path, json=body, headers=headers) as response:
            return response.status, [event async for event in read_events(response)]

    _, events = await post("")
    before = await person.messages(chat)
    status, rest = await post(events[1].id)
    assert status == 200
    assert [event.id for event in rest] == [event.id for event in events[2:]]
    assert (await post(events[-1].id))[0] == 204
    assert (await post("nonsense"))[0] == 400
    assert await person.messages(chat) == before


async def test_reconnect_that_lost_the_first_frame_joins(person: Person) -> None:
    """A native EventSource repeats its GET by itself."""
    chat = await scripted_chat(person)
    _, first = await get_stream(person, chat, SLOW, until=1)
    _, again = await get_stream(person, chat, SLOW, until=3)
    assert again[0] == first[0]
    assert len(await person.messages(chat)) == 2


async def test_next_said_twice_in_a_row_is_two_messages(person: Person) -> None:
    chat = await scripted_chat(person)
    for _ in range(2):
        await get_stream(person, chat, SHORT)
        # The end was written to a reader; that it was is stored right after.
        await asyncio.sleep(0.2)
    assert [message["role"] for message in await person.messages(chat)] == ["user", "assistant"] * 2


async def test_next_said_again_as_soon_as_the_end_is_read_is_another_message(person: Person) -> None:
    """The end is noted before it is written: whoever reads it may act upon it at once."""
    chat = await scripted_chat(person)
    seen: set[str] = set()
    async with contextlib.AsyncExitStack() as still_open:
        for _ in range(30):
            path = f"/api/v1/stream/chat/{chat}?message={quote('[[rate=0 tokens=1]]')}"
            response = await still_open.enter_async_context(person.stream(path))
            async for event in read_events(response):
                if event["type"] == "start":
                    seen.add(event["generation_id"])
                if event["type"] == "complete":
                    break
    assert len(seen) == 30


async def test_end_that_nobody_saw_is_joined_for_ten_seconds(person: Person) -> None:
    chat = await scripted_chat(person)
    _, first = await get_stream(person, chat, "[[first=0.3 rate=0 tokens=5]]", until=1)
    generation = first[0]["generation_id"]
    for _ in range(100):
        _, state = await person.request("GET", f"/api/v1/generations/{generation}")
        if state["status"] == "completed":
            break
        await asyncio.sleep(0.05)
    _, again = await get_stream(person, chat, "[[first=0.3 rate=0 tokens=5]]")
    assert again[0]["generation_id"] == generation
    assert again[-1]["type"] == "complete"


async def test_get_without_a_key_interrupts_the_running_answer_and_keeps_its_text(person: Person) -> None:
    """The first web client stops by closing the connection and asks the next thing."""
    chat = await scripted_chat(person)
    _, first = await get_stream(person, chat, SLOW, until=6)
    _, second = await get_stream(person, chat, SHORT)
    assert second[-1]["status"] == "completed"
    messages = await person.messages(chat)
    assert [message["status"] for message in messages] == ["completed", "stopped", "completed", "completed"]
    assert messages[1]["content"].startswith(text_of(first))


async def test_busy_chat_is_409_with_the_running_generation(person: Person) -> None:
    chat = await person.chat()
    running = await person.start(chat, SLOW)
    status, body = await person.send(chat, SHORT)
    assert (status, body["code"], body["generation_id"]) == (409, "chat_busy", running)
    assert body["stream_url"] == f"/api/v1/generations/{running}/stream"
    assert len(await person.messages(chat)) == 2
    await person.request("POST", f"/api/v1/generations/{running}/stop")


async def test_if_busy_interrupt_stops_and_starts(person: Person) -> None:
    chat = await person.chat()
    running = await person.start(chat, SLOW)
    generation = await person.start(chat, SHORT, if_busy="interrupt")
    assert (await person.events(generation))[-1]["status"] == "completed"
    assert (await person.events(running))[-1]["status"] == "stopped"


async def test_fourth_active_answer_of_a_person_is_429_before_anything_is_stored(person: Person) -> None:
    running = [await person.start(await person.chat(), SLOW) for _ in range(3)]
    chat = await person.chat()
    async with person.session.post(
        f"{person.node.base}/api/v1/chats/{chat}/messages",
        json={"content": SHORT, "model": "scripted"},
        headers=person.headers(),
    ) as response:
        assert response.status == 429
        assert response.headers["RateLimit"].startswith('"answers";r=0')
        assert "RateLimit-Policy" in response.headers
        assert int(response.headers["Retry-After"]) >= 1
    assert await person.messages(chat) == []
    for generation in running:
        await person.request("POST", f"/api/v1/generations/{generation}/stop")


async def test_fault_11_archived_chats_take_no_message(person: Person) -> None:
    chat = await scripted_chat(person)
    await person.request("DELETE", f"/api/v1/chats/{chat}")
    status, body = await person.send(chat, SHORT)
    assert (status, body["code"]) == (409, "chat_archived")
    status, _ = await get_stream(person, chat, SHORT)
    assert status == 409
    assert await person.messages(chat) == []


async def test_chat_of_somebody_else_is_404(person: Person, stranger: Person) -> None:
    chat = await scripted_chat(person)
    status, theirs = await stranger.send(chat, SHORT)
    missing = await stranger.send("018f0000-0000-7000-8000-000000000000", SHORT)
    assert (status, theirs) == missing == (404, theirs)
    status, _ = await get_stream(stranger, chat, SHORT)
    assert status == 404
    assert await person.messages(chat) == []


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Mode": "no-cors"}, {"Sec-Purpose": "prefetch;prerender"}],
)
async def test_get_by_navigation_or_prefetch_is_403(person: Person, headers: dict[str, str]) -> None:
    chat = await scripted_chat(person)
    status, _ = await get_stream(person, chat, SHORT, headers=headers)
    assert status == 403
    assert await person.messages(chat) == []


async def test_head_is_405(person: Person) -> None:
    chat = await scripted_chat(person)
    async with person.session.head(
        f"{person.node.base}/api/v1/stream/chat/{chat}?message=x", headers=person.headers()
    ) as response:
        assert response.status == 405
    assert await person.messages(chat) == []


@pytest.mark.parametrize(
    ("query", "accept", "status"),
    [
        ("", "application/json", 406),
        ("&wait=999", "text/event-stream", 400),
        ("&wait=nan", "text/event-stream", 400),
        ("", "text/event-streamx", 406),
    ],
)
async def test_what_is_refused_is_refused_before_the_commit(
    person: Person, query: str, accept: str, status: int
) -> None:
    chat = await scripted_chat(person)
    answered, _ = await get_stream(person, chat, SHORT, query=query, headers={"Accept": accept})
    assert answered == status
    assert await person.messages(chat) == []


async def test_get_form_can_be_turned_off(start_node: StartNode) -> None:
    async with Person(await start_node(STREAM_GET_ENABLED="false")) as person:
        status, _ = await get_stream(person, await scripted_chat(person), SHORT)
        assert status == 405


async def test_message_in_a_url_has_at_most_2000_characters(person: Person) -> None:
    chat = await scripted_chat(person)
    assert (await get_stream(person, chat, "x" * 2001))[0] == 400
    assert (await get_stream(person, chat, "[[tokens=1 rate=0]]" + "x" * 1981))[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"content": "a\x00b"}, 422, "content"),
        ({"content": "x" * 32_001}, 400, "content"),
        ({"content": ""}, 400, "content"),
        ({"content": " \n\t\u3000"}, 400, "content"),
        ({"content": 5}, 400, "content"),
        ({"content": "x", "colour": "red"}, 400, "colour"),
        ({}, 400, "content"),
        ({"content": "x", "parameters": {"temperature": 3}}, 400, "parameters.temperature"),
        ({"content": "x", "parameters": {"heat": 1}}, 400, "heat"),
        ({"content": "x", "parent_id": "no"}, 400, "parent_id"),
        ({"content": "x", "if_busy": "maybe"}, 400, "if_busy"),
    ],
)
async def test_bad_input_names_the_field_and_stores_nothing(
    person: Person, body: dict[str, Any], status: int, field: str
) -> None:
    chat = await person.chat()
    found, problem = await person.request("POST", f"/api/v1/chats/{chat}/messages", body)
    assert found == status, problem
    assert problem["errors"][0]["field"] == field
    assert isinstance(problem["error"], str)
    assert await person.messages(chat) == []


async def test_lone_surrogate_is_422(person: Person) -> None:
    chat = await person.chat()
    async with person.session.post(
        f"{person.node.base}/api/v1/chats/{chat}/messages",
        data=b'{"content": "a\\ud800b"}',
        headers=person.headers(**{"Content-Type": "application/json"}),
    ) as response:
        assert response.status == 422
        assert response.content_type == "application/problem+json"


async def test_unknown_model_is_404_and_lists_the_known_ones(person: Person) -> None:
    status, body = await person.send(await person.chat(), "x", model="gpt-9")
    assert (status, body["code"]) == (404, "unknown_model")
    assert "scripted" in str(body)


async def test_message_too_long_for_its_model_even_alone_is_422_with_both_numbers(
    start_node: StartNode, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text('[models.small]\nprotocol = "scripted"\ncontext_window = 256\nmax_output_tokens = 50\n')
    async with Person(await start_node(MODELS_FILE=str(models))) as person:
        chat = await person.chat()
        status, body = await person.send(chat, "word " * 1000, model="small")
        assert (status, body["code"]) == (422, "context_too_long")
        assert str(body["tokens"]) in body["error"]
        assert str(body["limit"]) in body["error"]
        assert await person.messages(chat) == []
        for _ in range(6):
            events = await person.events(await person.start(chat, "[[rate=0 tokens=60]] word", model="small"))
        assert any(event.get("code") == "context_trimmed" for event in events), "what was left out is announced"


async def test_message_too_long_for_its_model_stops_no_answer_for_its_sake(
    start_node: StartNode, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(
        '[models.scripted]\nprotocol = "scripted"\n'
        '[models.small]\nprotocol = "scripted"\ncontext_window = 256\nmax_output_tokens = 50\n',
        encoding="utf-8",
    )
    async with Person(await start_node(MODELS_FILE=str(models))) as person:
        chat = await person.chat()
        running = await person.start(chat, SLOW, model="scripted")
        status, body = await person.send(chat, "word " * 1000, model="small", if_busy="interrupt")
        assert (status, body["code"]) == (422, "context_too_long")
        _, generation = await person.request("GET", f"/api/v1/generations/{running}")
        assert generation["status"] == "running"
        await person.request("POST", f"/api/v1/generations/{running}/stop")


async def test_key_may_stand_in_header_body_or_query(person: Person) -> None:
    """§2: one in the query of a POST was ignored, and one intent became two messages."""
    chat = await person.chat()
    path = f"/api/v1/chats/{chat}/messages"
    ways: tuple[tuple[str, dict[str, str], dict[str, str]], ...] = (
        (f"{path}?request_id=k", {}, {}),
        (path, {"request_id": "k"}, {}),
        (f"{path}?request_id=other", {"request_id": "other"}, {"Idempotency-Key": "k"}),
        (f"{path}?request_id=other", {"request_id": "k"}, {}),
    )
    made = set()
    for address, field, headers in ways:
        body = {"content": SHORT, "model": "scripted", **field}
        status, sent = await person.request("POST", address, body, headers=headers)
        assert status == 201, sent
        made.add(sent["generation"]["id"])
    assert len(made) == 1
    assert len(await person.messages(chat)) == 2


async def test_fifty_senders_in_one_chat_get_dense_sequence_numbers(start_node: StartNode) -> None:
    """I8 and fault 5: MAX+1 without a lock; Open WebUI #28742: concurrent writes lost messages."""
    async with Person(await start_node(MAX_ACTIVE_GENERATIONS="100")) as person:
        chat = await person.chat()

        async def send_until_stored(number: int) -> None:
            for _ in range(400):
                status, body = await person.send(chat, f"[[rate=0 tokens=1]] {number}", request_id=f"n{number}")
                if status == 201:
                    return
                assert status == 409, body
                await asyncio.sleep(0.02)
            raise AssertionError("never stored")

        await asyncio.gather(*(send_until_stored(number) for number in range(50)))
        messages = await person.messages(chat)
        found = [message["sequence_number"] for message in messages]
        cursor: list[dict[str, Any]] = messages
        while len(cursor) == 50:
            _, cursor = await person.request("GET", f"/api/v1/chats/{chat}?include_messages=true")
            cursor = cursor["messages"]  # type: ignore[call-overload]
            found = [message["sequence_number"] for message in cursor]
        assert sorted(found) == list(range(1, 101))


async def test_fault_4_the_model_sees_each_message_once_and_in_order(person: Person) -> None:
    """The prompt on record is what was sent; the scripted upstream's own view is tested with the protocols."""
    chat = await person.chat()
    for text in ("[[rate=0 tokens=2]] one", "[[rate=0 tokens=2]] two", "[[rate=0 tokens=2]] three"):
        generation = await person.start(chat, text)
        await person.events(generation)
    _, prompt = await person.request("GET", f"/api/v1/generations/{generation}/prompt")
    stored = [message["id"] for message in await person.messages(chat)]
    assert prompt["message_ids"] == stored[:5]
