"""What a model was sent, as its answer's owner can read it, and which model is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from nodes import Event, Node, Person, read_events

StartNode = Callable[..., Awaitable[Node]]


async def test_recorded_prompt_has_what_a_model_without_prefixes_is_told(start_node: StartNode, tmp_path: Path) -> None:
    """The record is the exact prompt: what stands in no message of the chat stands here."""
    models = tmp_path / "models.toml"
    models.write_text('[models.once]\nprotocol = "scripted"\ncapabilities = []\n')
    async with Person(await start_node(MODELS_FILE=str(models))) as person:
        for model, told in (("once", True), ("scripted", False)):
            chat = await person.chat()
            first = await person.start(chat, "[[rate=50 tokens=50]]", model=model)
            await person.events(first, until=4)
            await person.request("POST", f"/api/v1/generations/{first}/stop")
            kept = (await person.messages(chat))[-1]
            _, sent = await person.request("POST", f"/api/v1/chats/{chat}/messages/{kept['id']}/continue")
            generation = sent["generation"]["id"]
            await person.events(generation)
            _, prompt = await person.request("GET", f"/api/v1/generations/{generation}/prompt")
            assert prompt["prefix_characters"] == len(kept["content"]) > 0
            assert ("Continue your last answer" in prompt["instruction"]) == told, model


def stand_ins(events: list[Event]) -> list[tuple[str, str]]:
    return [
        (event["data"]["from"], event["data"]["to"])
        for event in events
        if event["type"] == "notice" and event["code"] == "fallback"
    ]


async def test_a_chat_that_names_a_model_that_is_not_there_is_answered_by_the_default_and_told(person: Person) -> None:
    """The first web client names models as it likes, and by GET nobody can name another."""
    chat = await person.chat(model_used="one of the first backend")
    async with person.stream(f"/api/v1/stream/chat/{chat}?message=hello") as response:
        assert response.status == 200
        events = [event async for event in read_events(response)]
    assert events[-1]["status"] == "completed"
    assert events[0]["model"] == "guide"
    assert stand_ins(events) == [("one of the first backend", "guide")]
    # Who names it now is told the known ones; a chat that names a good one is told nothing.
    status, problem = await person.send(chat, "hello", model="one of the first backend")
    assert (status, problem["code"]) == (404, "unknown_model")
    good = await person.events(await person.start(await person.chat(model_used="scripted"), "[[rate=0 tokens=2]]"))
    assert stand_ins(good) == []


async def test_an_answer_of_a_model_that_is_gone_is_made_anew_by_the_chats_own(
    start_node: StartNode, tmp_path: Path
) -> None:
    """Else "try again" was refused for every old answer once an operator had changed the models."""
    models = tmp_path / "models.toml"
    models.write_text('[models.former]\nprotocol = "scripted"\n')
    node = await start_node(MODELS_FILE=str(models))
    async with Person(node) as person:
        chat = await person.chat(model_used="scripted")
        await person.events(await person.start(chat, "[[rate=0 tokens=3]]", model="former"))
        answer = (await person.messages(chat))[-1]
        assert answer["model"] == "former"
        models.write_text("")
        await node.stop()
        await node.start()
        path = f"/api/v1/chats/{chat}/messages/{answer['id']}/regenerate"
        status, sent = await person.request("POST", path)
        assert (status, sent["generation"]["model"]) == (201, "scripted")
        events = await person.events(sent["generation"]["id"])
        assert events[-1]["status"] == "completed"
        assert stand_ins(events) == [("former", "scripted")]
        # Who asks for it by name is told.
        status, problem = await person.request("POST", path, {"model": "former"})
        assert (status, problem["code"]) == (404, "unknown_model")
