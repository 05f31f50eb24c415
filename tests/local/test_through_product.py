"""The whole way: browser's stream, backend, PostgreSQL, LLM service, a real model. Its text is known to the letter."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from local_service import KEY, Service, service_starter, until
from nodes import Node, Person, database_environment, text_of
from tiny_model import RECITATION, make_model

from llmchatbot.database.address import Address

StartNode = Callable[[Service], Awaitable[Node]]
PROTOCOLS = ["openai", "ndjson"]
MODELS = """
default = "openai"

[models.openai]
protocol = "openai"
url = "{url}/v1"
key_env = "LLM_SERVICE_KEY"
upstream_name = "paced"
capabilities = ["prefix"]

[models.ndjson]
protocol = "ndjson"
url = "{url}"
key_env = "LLM_SERVICE_KEY"
"""


@pytest.fixture(scope="module")
def paced(models: Path) -> Iterator[Service]:
    """A text that ends, at a pace that leaves time to interfere: 683 tokens in a second or more."""
    with service_starter() as start:
        yield start(make_model(models / "paced.gguf", layers=10), "--threads", "1")


@pytest.fixture
def start_node(tmp_path: Path, database: Address) -> Iterator[StartNode]:
    """One more process of the product on the test's database."""
    nodes: list[Node] = []

    async def start(service: Service) -> Node:
        (tmp_path / "models.toml").write_text(MODELS.format(url=service.url))
        environment = {
            **database_environment(database),
            "MODELS_FILE": str(tmp_path / "models.toml"),
            "LLM_SERVICE_KEY": KEY,
            "LEASE": "2s",
            "LEASE_RENEWAL": "500ms",
        }
        nodes.append(Node(tmp_path, environment))
        return await nodes[-1].start()

    yield start
    for node in nodes:
        node.end()


@pytest.fixture
async def node(start_node: StartNode, paced: Service) -> Node:
    return await start_node(paced)


@pytest.fixture
async def person(node: Node) -> AsyncIterator[Person]:
    async with Person(node) as somebody:
        yield somebody


@pytest.mark.parametrize("model", PROTOCOLS)
async def test_every_token_of_the_model_is_stored_and_shown(person: Person, model: str) -> None:
    chat = await person.chat()
    events = await person.events(await person.start(chat, "Begin.", model=model))
    assert text_of(events) == RECITATION
    assert (events[-1]["status"], events[-1]["content"], events[-1]["tokens"]) == ("completed", RECITATION, 683)
    assert events[-1]["usage"]["input_tokens"] > 0
    stored = (await person.messages(chat))[-1]
    assert (stored["content"], stored["is_incomplete"]) == (RECITATION, False)


@pytest.mark.parametrize("model", PROTOCOLS)
async def test_a_reader_that_left_resumes_where_it_was(person: Person, model: str) -> None:
    generation = await person.start(await person.chat(), "Begin.", model=model)
    seen = await person.events(generation, until=12)
    rest = await person.events(generation, last=seen[-1].id)
    assert 0 < len(text_of(seen)) < len(RECITATION)
    assert text_of(seen) + text_of(rest) == RECITATION
    assert [event.seq for event in seen + rest] == list(range(len(seen + rest)))


@pytest.mark.parametrize("model", PROTOCOLS)
async def test_a_stop_keeps_the_text_and_frees_the_slot_and_the_answer_can_go_on(
    person: Person, paced: Service, http: aiohttp.ClientSession, model: str
) -> None:
    chat = await person.chat()
    generation = await person.start(chat, "Begin.", model=model)
    await person.events(generation, until=8)
    status, receipt = await person.request("POST", f"/api/v1/generations/{generation}/stop")
    assert (status, receipt["status"]) == (200, "stopped")
    assert await until(0, functools.partial(paced.busy, http)) <= 0.5
    stopped = (await person.messages(chat))[-1]
    assert stopped["content"] == RECITATION[: receipt["characters"]]
    assert 0 < receipt["characters"] < len(RECITATION)
    # The model of the file named `openai` goes on from a text; the other is told in words to go on.
    path = f"/api/v1/chats/{chat}/messages/{stopped['id']}/continue"
    status, sent = await person.request("POST", path, {"model": "openai"})
    assert status == 201
    assert (await person.events(sent["generation"]["id"]))[-1]["content"] == RECITATION


async def test_a_killed_process_is_taken_over_and_the_model_goes_on_to_the_letter(
    person: Person, start_node: StartNode, paced: Service, http: aiohttp.ClientSession
) -> None:
    other = await start_node(paced)
    generation = await person.start(await person.chat(), "Begin.", model="openai")
    seen = await person.events(generation, until=12)
    person.node.kill()
    assert await until(0, functools.partial(paced.busy, http)) <= 1
    events = seen + await person.events(generation, last=seen[-1].id, node=other)
    assert text_of(events) == events[-1]["content"] == RECITATION
    assert [event.seq for event in events] == list(range(len(events)))


async def test_a_service_that_dies_leaves_an_interrupted_answer_never_a_complete_one(
    start_node: StartNode, models: Path
) -> None:
    with service_starter() as start:
        service = await asyncio.to_thread(start, models / "slow.gguf", "--threads", "1")
        async with Person(await start_node(service)) as person:
            chat = await person.chat()
            generation = await person.start(chat, "Begin.", model="openai")
            seen = await person.events(generation, until=12)
            assert service.process is not None
            service.process.kill()
            events = seen + await person.events(generation, last=seen[-1].id)
            assert (events[-1].name, events[-1]["status"]) == ("error", "interrupted")
            stored = (await person.messages(chat))[-1]
            assert (stored["content"], stored["is_incomplete"]) == (text_of(events), True)


async def test_many_people_share_the_slots(person: Person) -> None:
    people = [await Person(person.node).__aenter__() for _ in range(6)]
    try:
        chats = await asyncio.gather(*(somebody.chat() for somebody in people))
        sent = [somebody.start(chat, "Begin.", model="openai") for somebody, chat in zip(people, chats, strict=True)]
        generations = await asyncio.gather(*sent)
        reading = [somebody.events(generation) for somebody, generation in zip(people, generations, strict=True)]
        assert {text_of(events) for events in await asyncio.gather(*reading)} == {RECITATION}
    finally:
        for somebody in people:
            await somebody.session.close()
