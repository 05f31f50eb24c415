"""Titles: from the question at once, by the model afterwards where that is set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nodes import Node, Person, read_events

StartNode = Callable[..., Awaitable[Node]]


async def title(person: Person, chat: str) -> str:
    _, body = await person.request("GET", f"/api/v1/chats/{chat}")
    found: str = body["title"]
    return found


async def test_first_question_names_the_chat_and_the_stream_says_so(person: Person) -> None:
    chat = await person.chat()
    events = await person.events(await person.start(chat, "  How do rivers\n[[rate=0 tokens=2]]"))
    assert await title(person, chat) == "How do rivers"
    assert [event["content"] for event in events if event["type"] == "title"] == ["How do rivers"]


async def test_title_of_a_person_is_never_overwritten(person: Person) -> None:
    chat = await person.chat(title="Mine")
    events = await person.events(await person.start(chat, "[[rate=0 tokens=2]]"))
    assert await title(person, chat) == "Mine"
    assert not [event for event in events if event["type"] == "title"]


async def test_model_names_the_chat_after_its_first_answer(start_node: StartNode) -> None:
    async with Person(await start_node(LLM_TITLES="true")) as person:
        async with person.stream("/api/v1/events") as response:
            feed = read_events(response)
            chat = await person.chat()
            await person.events(await person.start(chat, "[[rate=0 text='A fine title']]"))
            async for event in feed:
                if event["type"] == "chat.updated" and event.get("title"):
                    break
        assert event["title"] == "A fine title"
        assert await title(person, chat) == "A fine title"
