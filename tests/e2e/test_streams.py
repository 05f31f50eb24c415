"""Answers through a real process: protocol §1–§4, rule by rule."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from nodes import Event, Node, Person, read_events, text_of

StartNode = Callable[..., Awaitable[Node]]

SLOW = "[[rate=50 tokens=200]]"
SHORT = "[[rate=0 tokens=30]]"


async def test_first_frame_names_all_ids_and_comes_before_the_model_is_asked(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, "[[first=5 tokens=3]]")
    first = (await asyncio.wait_for(person.events(generation, until=1), 2))[0]
    assert first["type"] == "start"
    assert first["generation_id"] == generation
    assert first["session_id"] == chat
    assert first.id == f"{generation}.0"
    stored = await person.messages(chat)
    assert {first["user_message_id"], first["message_id"]} == {message["id"] for message in stored}


async def test_events_are_dense_and_the_last_one_is_the_only_end(person: Person) -> None:
    """I1, I4, I5."""
    chat = await person.chat()
    generation = await person.start(chat, SHORT)
    events = await person.events(generation)
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event["type"] for event in events].count("complete") == 1
    end = events[-1]
    assert end["type"] == "complete"
    assert end["status"] == "completed"
    assert end["content"] == text_of(events)
    assert end["sha256"] == hashlib.sha256(end["content"].encode()).hexdigest()
    assert (await person.messages(chat))[-1]["content"] == end["content"]


async def test_frames_are_ascii_with_lf_only_and_retry_inside_the_first_block(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, "[[rate=0 tokens=30]]")
    async with person.stream(f"/api/v1/generations/{generation}/stream") as response:
        raw = await response.read()
        headers = response.headers
    assert raw.isascii()
    assert b"\r" not in raw
    blocks = raw.decode().split("\n\n")
    assert blocks[0].startswith("retry: 1500\nid: ")
    assert blocks[-1] == ""
    assert all(block.split("\n")[0].startswith("id: ") for block in blocks[1:-1])
    assert all(block.count("data: ") == 1 for block in blocks[:-1])
    assert "event:" not in raw.decode()
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-store, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Length" not in headers


async def test_ndjson_twin_gives_the_same_objects_with_their_ids(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, SHORT)
    events = await person.events(generation)
    async with person.stream(
        f"/api/v1/generations/{generation}/stream", headers={"Accept": "application/x-ndjson"}
    ) as response:
        lines = [json.loads(line) for line in (await response.text()).splitlines() if line]
    assert [(line.pop("id"), line) for line in lines] == [(event.id, dict(event)) for event in events]


async def test_long_poll_walks_the_same_cursor(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, "[[rate=100 tokens=60]]")
    seen: list[Event] = []
    for _ in range(500):
        last = seen[-1].id if seen else None
        async with person.stream(f"/api/v1/generations/{generation}/stream?wait=5", last=last) as response:
            if response.status == 204:
                break
            seen += [event async for event in read_events(response)]
    whole = await person.events(generation)
    assert [(event.id, dict(event)) for event in seen] == [(event.id, dict(event)) for event in whole]


async def test_cursor_at_the_end_of_a_finished_answer_gets_204(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, SHORT)
    events = await person.events(generation)
    async with person.stream(f"/api/v1/generations/{generation}/stream", last=events[-1].id) as response:
        assert response.status == 204


@pytest.mark.parametrize("running", [True, False])
async def test_cursor_beyond_the_end_gets_a_reset_with_the_whole_text(person: Person, running: bool) -> None:
    chat = await person.chat()
    generation = await person.start(chat, "[[rate=40 tokens=60]]" if running else SHORT)
    if running:
        await person.events(generation, until=10)
    else:
        await person.events(generation)
    events = await person.events(generation, last=f"{generation}.99999")
    assert events[0]["type"] == "reset"
    assert events[-1]["type"] == "complete"
    assert text_of(events) == events[-1]["content"]


@pytest.mark.parametrize("cursor", ["x", "1.2", "..", "018f.0", f"{'0' * 36}.-1", f"{'0' * 36}.1e3", "é.1"])
async def test_malformed_cursor_is_400(person: Person, cursor: str) -> None:
    generation = await person.start(await person.chat(), SHORT)
    status, body = await person.request(
        "GET", f"/api/v1/generations/{generation}/stream?last_event_id={cursor.replace('é', '%C3%A9')}"
    )
    assert status == 400, body
    assert body["code"] == "malformed_cursor"


async def test_reader_that_leaves_does_not_stop_the_answer(person: Person) -> None:
    """Fault 2 of the first backend: a closed tab lost the text."""
    chat = await person.chat()
    generation = await person.start(chat, "[[rate=100 tokens=60]]")
    await person.events(generation, until=5)
    events = await person.events(generation)
    assert events[-1]["status"] == "completed"
    assert (await person.messages(chat))[-1]["status"] == "completed"


async def test_fifty_reconnects_lose_and_double_nothing(person: Person) -> None:
    """LibreChat #11842: every second reconnect lost text."""
    generation = await person.start(await person.chat(), "[[rate=200 tokens=400]]")
    seen: list[Event] = []
    for _ in range(50):
        part = await person.events(generation, last=seen[-1].id if seen else None, until=3)
        seen += part
    seen += await person.events(generation, last=seen[-1].id)
    assert [event.seq for event in seen] == list(range(len(seen)))
    assert text_of(seen) == seen[-1]["content"]


async def test_snapshot_and_tail_share_one_cursor(person: Person) -> None:
    """LibreChat #12225: snapshot plus replay of the same buffer doubled the text."""
    generation = await person.start(await person.chat(), "[[rate=200 tokens=100]]")
    await person.events(generation, until=10)
    late = await person.events(generation)
    assert [event.seq for event in late] == list(range(len(late)))
    assert text_of(late) == late[-1]["content"]


async def test_event_ids_of_two_answers_in_one_chat_differ(person: Person) -> None:
    """LibreChat #13117: the next answer began at 0 under the same stream id and was dropped as old."""
    chat = await person.chat()
    first = await person.events(await person.start(chat, SHORT))
    second = await person.events(await person.start(chat, SHORT))
    assert not {event.id for event in first} & {event.id for event in second}


async def test_many_readers_see_the_same(person: Person) -> None:
    generation = await person.start(await person.chat(), "[[rate=100 tokens=80]]")
    readers = await asyncio.gather(*(person.events(generation) for _ in range(8)))
    assert all([dict(event) for event in reader] == [dict(event) for event in readers[0]] for reader in readers)


async def test_stop_keeps_the_text_and_gives_the_same_receipt_twice(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, SLOW)
    await person.events(generation, until=8)
    status, receipt = await person.request("POST", f"/api/v1/generations/{generation}/stop")
    assert status == 200
    assert receipt["status"] == "stopped"
    assert await person.request("POST", f"/api/v1/generations/{generation}/stop") == (200, receipt)
    events = await person.events(generation)
    assert events[-1].id == receipt["last_event_id"]
    assert events[-1]["status"] == "stopped"
    assert len(text_of(events)) == receipt["characters"] > 0
    message = (await person.messages(chat))[-1]
    assert (message["status"], message["content"], message["is_incomplete"]) == ("stopped", text_of(events), True)


async def test_stop_before_the_first_token(person: Person) -> None:
    """chat-ui PR #2334: a stop before the first token did nothing."""
    generation = await person.start(await person.chat(), "[[first=30 tokens=5]]")
    status, receipt = await person.request("POST", f"/api/v1/generations/{generation}/stop")
    assert (status, receipt["status"], receipt["characters"]) == (200, "stopped", 0)


async def test_stopping_what_is_finished_changes_nothing(person: Person) -> None:
    generation = await person.start(await person.chat(), SHORT)
    events = await person.events(generation)
    status, receipt = await person.request("POST", f"/api/v1/generations/{generation}/stop")
    assert (status, receipt["status"], receipt["last_event_id"]) == (200, "completed", events[-1].id)


async def outweigh_faults(person: Person) -> None:
    """A refused call counts three times, and the node is everybody's: its circuit breaker must not open for others."""
    chat = await person.chat()
    for _ in range(4):
        assert (await person.events(await person.start(chat, SHORT)))[-1]["type"] == "complete"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("cut@10", "interrupted", "model_interrupted"),
        ("noend", "interrupted", "model_interrupted"),
        ("refuse", "failed", None),
        ("error@10", "interrupted", None),
    ],
)
async def test_what_goes_wrong_after_the_commit_is_an_event(
    person: Person, fault: str, status: str, code: str | None
) -> None:
    """Faults 1 and 3 of the first backend: a cut answer was stored as complete, a failed one was silence."""
    await outweigh_faults(person)
    chat = await person.chat()
    generation = await person.start(chat, f"[[rate=0 tokens=40 fault={fault}]]")
    events = await person.events(generation)
    assert events[-1].name == "error"
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]
    assert events[-1]["status"] == status
    assert code is None or events[-1]["code"] == code
    message = (await person.messages(chat))[-1]
    assert (message["status"], message["content"]) == (status, text_of(events))
    assert message["is_incomplete"]


async def test_continue_begins_with_the_kept_text(person: Person) -> None:
    await outweigh_faults(person)
    chat = await person.chat()
    whole = await person.events(await person.start(chat, "[[rate=0 tokens=40]]"))
    cut = await person.events(await person.start(chat, "[[rate=0 tokens=40 fault=cut@15]]"))
    message = cut[0]["message_id"]
    status, sent = await person.request("POST", f"/api/v1/chats/{chat}/messages/{message}/continue", {})
    assert status == 201, sent
    # The script still says "cut", so the scripted model ends there again; what matters is where it began.
    events = await person.events(sent["generation"]["id"])
    assert text_of(events).startswith(text_of(cut))
    assert text_of(whole).startswith(text_of(cut))
    assert sent["generation"]["message_id"] != message


async def test_complete_answers_cannot_be_continued(person: Person) -> None:
    chat = await person.chat()
    events = await person.events(await person.start(chat, SHORT))
    path = f"/api/v1/chats/{chat}/messages/{events[0]['message_id']}/continue"
    status, body = await person.request("POST", path, {})
    assert (status, body["code"]) == (409, "not_continuable")


async def test_regenerate_makes_a_sibling_and_moves_the_branch(person: Person) -> None:
    chat = await person.chat()
    events = await person.events(await person.start(chat, SHORT))
    path = f"/api/v1/chats/{chat}/messages/{events[0]['message_id']}/regenerate"
    status, sent = await person.request("POST", path, {})
    assert status == 201, sent
    await person.events(sent["generation"]["id"])
    messages = await person.messages(chat)
    answers = [message for message in messages if message["role"] == "assistant"]
    assert len(answers) == 2
    assert {answer["parent_id"] for answer in answers} == {events[0]["user_message_id"]}
    _, current = await person.request("GET", f"/api/v1/chats/{chat}/messages")
    assert [message["id"] for message in current][-1] == sent["generation"]["message_id"]


async def test_stream_ticket_opens_one_stream_and_nothing_else(person: Person) -> None:
    chat = await person.chat()
    generation = await person.start(chat, SHORT)
    other = await person.start(await person.chat(), SHORT)
    status, ticket = await person.request("POST", f"/api/v1/generations/{generation}/ticket")
    assert status == 201
    async with aiohttp.ClientSession() as stranger:
        async with stranger.get(person.node.base + ticket["stream_url"]) as response:
            assert response.status == 200
            assert [event async for event in read_events(response)][-1]["type"] == "complete"
        for path in (
            f"/api/v1/generations/{other}/stream",
            f"/api/v1/chats/{chat}",
            f"/api/v1/generations/{generation}",
        ):
            async with stranger.get(f"{person.node.base}{path}?ticket={ticket['ticket']}") as response:
                assert response.status == 401, path
        await person.request("POST", "/api/v1/auth/logout")
        async with stranger.get(person.node.base + ticket["stream_url"]) as response:
            assert response.status == 401, "a ticket of a device that was logged out"


async def test_log_out_closes_open_streams(person: Person) -> None:
    generation = await person.start(await person.chat(), "[[rate=5 tokens=400]]")
    async with person.stream(f"/api/v1/generations/{generation}/stream") as response:
        await anext(read_events(response))
        await person.request("POST", "/api/v1/auth/logout")
        rest = await asyncio.wait_for(response.content.read(), 5)
    assert b"complete" not in rest


async def test_recorded_prompt_names_messages_parameters_and_model(person: Person) -> None:
    chat = await person.chat()
    await person.events(await person.start(chat, SHORT))
    generation = await person.start(chat, SHORT, parameters={"temperature": 0.5, "system_prompt": "Be short."})
    events = await person.events(generation)
    status, prompt = await person.request("GET", f"/api/v1/generations/{generation}/prompt")
    assert status == 200
    stored = await person.messages(chat)
    assert prompt["message_ids"] == [message["id"] for message in stored][:3]
    assert prompt["left_out_ids"] == []
    assert prompt["model"] == events[0]["model"] == "scripted"
    assert prompt["system_prompt"] == "Be short."
    assert prompt["parameters"]["temperature"] == 0.5


async def test_heartbeats_are_comment_lines_without_a_blank_line(start_node: StartNode) -> None:
    node = await start_node(STREAM_HEARTBEAT="1s")
    async with Person(node) as person:
        generation = await person.start(await person.chat(), "[[first=20 tokens=3]]")
        async with person.stream(f"/api/v1/generations/{generation}/stream") as response:
            raw = b""
            while raw.count(b"\n:\n") + raw.count(b"\n:\n:") < 1:
                raw += await asyncio.wait_for(response.content.readany(), 5)
        assert b": " not in raw.rpartition(b"\n\n")[2]
        assert raw.endswith(b":\n")
        await person.request("POST", f"/api/v1/generations/{generation}/stop")
