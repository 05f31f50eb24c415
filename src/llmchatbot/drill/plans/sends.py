"""Impatient people: retries, timeouts, double clicks, answers that get lost on the way."""

from __future__ import annotations

import asyncio
import random
import uuid
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

from llmchatbot.drill.arena import Arena, Sent
from llmchatbot.drill.people import Answer, Person
from llmchatbot.drill.proxy import Fault, FaultProxy

_LANES = 8
# Most of the time goes by while answers are read; a lane is a person who waits for that.
_MANY, _MANY_LANES = 1000, 32


async def run(arena: Arena) -> None:
    intents = arena.amount(120, 10_000, deployment=6)
    lanes = min(_MANY_LANES if intents >= _MANY else _LANES, intents) if arena.own else 1
    arena.expect(intents)
    async with AsyncExitStack() as stack:
        people = await stack.enter_async_context(arena.people(lanes))
        proxy = await stack.enter_async_context(FaultProxy(arena.targets, tls=arena.tls))
        seeds = [arena.rng.random() for _ in range(lanes)]
        share = [intents // lanes + (lane < intents % lanes) for lane in range(lanes)]
        async with asyncio.TaskGroup() as group:
            for person, seed, number in zip(people, seeds, share, strict=True):
                lane = _Lane(arena, person, proxy.url, random.Random(seed))  # noqa: S311 - to be repeated
                group.create_task(lane.run(number))


class _Lane:
    """One person in one chat, one intent after the other."""

    def __init__(self, arena: Arena, person: Person, proxy: str, rng: random.Random) -> None:
        self._arena = arena
        self._person = person
        self._proxy = proxy
        self._rng = rng
        self._ways = {
            "once": self._once,
            "double click": self._twice,
            "impatient": self._impatient,
            "lost answer": self._lost,
            "new token between": self._refreshed,
        }

    async def run(self, intents: int) -> None:
        chat = await self._person.chat()
        for number in range(intents):
            way = self._rng.choice([*self._ways, "GET"] if self._arena.own else list(self._ways))
            # By GET it must still be written when the reader comes back: whoever saw the end asks anew.
            script = f"rate={40 if way == 'GET' else 0} tokens={120 if way == 'GET' else 20} seed={number + 1}"
            if way == "GET":
                generation_id = await self._by_get(chat, script)
            else:
                generation_id = await self._by_post(chat, script, way)
            self._arena.outcome.count(way)
            self._arena.step()
            if generation_id is None:
                return
            self._arena.record(Sent(chat, generation_id, script))
            await self._person.follow(self._arena.follower(generation_id), url=self._url())
        await self._check_deployment(chat, intents)

    async def _by_post(self, chat: str, script: str, way: str) -> str | None:
        path = f"/api/v1/chats/{chat}/messages"
        key = uuid.UUID(int=self._rng.getrandbits(128)).hex
        body = {"content": self._arena.question(script), "request_id": key}
        if model := self._arena.model("scripted"):
            body["model"] = model
        answers = await self._ways[way](path, body)
        # One more, by somebody who does not know: it must be the same answer.
        answers.append(await self._person.persistently("POST", path, body, url=self._url()))
        ids = {answer.body["generation"]["id"] for answer in answers if answer.status == 201}
        refused = {answer.status for answer in answers if answer.status not in {0, 201, 503}}
        self._arena.outcome.check(len(ids) == 1, f"{way}: one intent, {len(ids)} answers")
        self._arena.outcome.check(not refused, f"{way}: refused with {refused}")
        return ids.pop() if ids else None

    def _url(self) -> str:
        return self._rng.choice(self._arena.urls)

    async def _once(self, path: str, body: dict[str, Any]) -> list[Answer]:
        return [await self._person.request("POST", path, body, url=self._url())]

    async def _twice(self, path: str, body: dict[str, Any]) -> list[Answer]:
        clicks = self._rng.randint(2, 4)
        return list(
            await asyncio.gather(*(self._person.request("POST", path, body, url=self._url()) for _ in range(clicks)))
        )

    async def _impatient(self, path: str, body: dict[str, Any]) -> list[Answer]:
        """Gives up while the server is at work."""
        seconds = self._rng.uniform(0.001, 0.03)
        return [await self._person.request("POST", path, body, url=self._url(), seconds=seconds)]

    async def _lost(self, path: str, body: dict[str, Any]) -> list[Answer]:
        """The server has done it, and its answer breaks off."""
        fault = Fault("reset", "anywhere", self._rng.randrange(600))
        return [await self._person.request("POST", path, body, url=self._proxy, headers=fault.header)]

    async def _refreshed(self, path: str, body: dict[str, Any]) -> list[Answer]:
        answers = await self._lost(path, body)
        fresh = await self._person.persistently(
            "POST", "/api/v1/auth/refresh", {"refresh_token": self._person.refresh_token}
        )
        if self._arena.outcome.check(fresh.status == 200, f"a refresh was refused with {fresh.status}"):
            self._person.token, self._person.refresh_token = fresh.body["access_token"], fresh.body["refresh_token"]
        return answers

    async def _by_get(self, chat: str, script: str) -> str | None:
        """A native EventSource: without a key it repeats the same address after each drop; with an id it resumes."""
        path = f"/api/v1/stream/chat/{chat}?message={quote(self._arena.question(script))}"
        ids: set[str] = set()
        for _ in range(3):
            fault = Fault("cut", "anywhere", self._rng.randrange(500))
            identifier = await self._person.generation_of_stream(path, url=self._proxy, fault=fault)
            if identifier is not None:
                ids.add(identifier)
                break
        else:
            last = await self._person.generation_of_stream(path, url=self._url())
            ids |= {last} if last is not None else set()
        self._arena.outcome.check(len(ids) == 1, f"GET: one intent, {len(ids)} answers")
        return ids.pop() if ids else None

    async def _check_deployment(self, chat: str, intents: int) -> None:
        """Where there is no database to ask, the chat's own list is asked."""
        if not self._arena.own:
            messages = await self._person.messages(chat)
            questions = sum(message["role"] == "user" for message in messages)
            self._arena.outcome.check(questions == intents, f"{intents} intents, {questions} questions")
