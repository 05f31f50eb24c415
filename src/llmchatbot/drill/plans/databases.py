"""PostgreSQL restarted and killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from llmchatbot.database.pool import connect, translate
from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Answer, Person
from llmchatbot.errors import DatabaseUnavailable

_PEOPLE = 5
_LONGEST_REQUEST = 5.0


class _Response(msgspec.Struct, frozen=True):
    moment: float
    path: str
    answer: Answer


class _Outage(msgspec.Struct, frozen=True):
    began: float
    # When PostgreSQL took connections again.
    ended: float


async def restart(arena: Arena) -> None:
    """A clean restart, soon or late: a few times the database stays away for longer than a lease."""

    async def outage(number: int) -> None:
        away = arena.pace.lease * 1.25 if number % 3 == 1 else arena.rng.uniform(0, 2)
        await arena.cluster.postgres.stop()
        await asyncio.sleep(away)
        await arena.cluster.postgres.start()

    await _under_load(arena, outage, rounds=arena.amount(2, 50), grace=3.0)


async def kill(arena: Arena) -> None:
    """kill -9 of the whole server, and of one backend, after which the server recovers all the same."""

    async def outage(number: int) -> None:
        if number % 3 == 2:
            await _kill_backend(arena)
        else:
            pid = arena.cluster.postgres.pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        await _until_connected(arena)

    await _under_load(arena, outage, rounds=arena.amount(3, 50), grace=8.0)


def why_not(arena: Arena) -> str:
    return "" if Path("/proc/self/status").exists() else "processes can be looked up on Linux only"


async def hang(arena: Arena) -> None:
    """All of PostgreSQL stands still, as behind a network that swallows everything: nobody is told, nothing breaks."""

    async def outage(number: int) -> None:
        still = _processes_of(arena.cluster.postgres.pid)
        try:
            for pid in still:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(10)
        finally:
            for pid in still:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        await _until_connected(arena)

    await _under_load(arena, outage, rounds=arena.amount(1, 20), grace=3.0)


def _processes_of(server: int | None) -> list[int]:
    """The server, which makes new ones, before those that it has made."""
    found = [] if server is None else [server]
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"PPid:\t{server}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found


async def _kill_backend(arena: Arena) -> None:
    pid = await arena.cluster.database.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND application_name <> 'llmchatbot drill' ORDER BY random() LIMIT 1"
    )
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _until_connected(arena: Arena) -> None:
    while True:
        try:
            with translate():
                connection = await connect(arena.cluster.address, application_name="llmchatbot drill")
                await connection.close()
        except DatabaseUnavailable:
            await asyncio.sleep(0.02)
        else:
            return


async def _under_load(arena: Arena, outage: Callable[[int], Awaitable[None]], *, rounds: int, grace: float) -> None:
    """People talk all the time; `grace` seconds after PostgreSQL takes connections nobody may be refused any more."""
    arena.expect(rounds)
    arena.outcome.limit("request", _LONGEST_REQUEST)
    responses: list[_Response] = []
    outages: list[_Outage] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(path: str, answer: Answer) -> None:
        responses.append(_Response(loop.time(), path, answer))

    async with arena.people(_PEOPLE, watch=note) as people, asyncio.TaskGroup() as group:
        for number, person in enumerate(people):
            group.create_task(_talk(arena, person, number, done))
            group.create_task(_look_around(arena, person, done))
        try:
            for number in range(rounds):
                await asyncio.sleep(arena.rng.uniform(1.0, 2.0))
                began = loop.time()
                await outage(number)
                outages.append(_Outage(began, loop.time()))
                arena.outcome.time("outage", outages[-1].ended - began)
                arena.outcome.count("outages")
                arena.step()
            await asyncio.sleep(grace + 1)
        finally:
            done.set()
    _judge(arena, responses, outages, grace)


async def _talk(arena: Arena, person: Person, number: int, done: asyncio.Event) -> None:
    """Long answers with pauses in them, by a model that cannot continue: only waiting in memory saves them."""
    seed = 1000 * (number + 1)
    while not done.is_set():
        seed += 1
        url = arena.rng.choice(arena.urls)
        generation_id = await arena.ask(person, f"rate=40 tokens=160 seed={seed}", url=url, model="plain")
        follower = arena.follower(generation_id)
        await person.follow(follower, url=arena.rng.choice(arena.urls))
        await person.request("GET", "/api/v1/chats", url=arena.rng.choice(arena.urls))


async def _look_around(arena: Arena, person: Person, done: asyncio.Event) -> None:
    """Short requests all the time, so that some are under way whatever breaks."""
    while not done.is_set():
        await person.request("GET", "/api/v1/chats", url=arena.rng.choice(arena.urls))
        await asyncio.sleep(0.1)


def _judge(arena: Arena, responses: list[_Response], outages: list[_Outage], grace: float) -> None:
    for response in responses:
        answer = response.answer
        arena.outcome.time("request", answer.seconds)
        if answer.status == 0:
            arena.outcome.violate(f"{response.path}: no response after {answer.seconds:.1f} s")
        elif answer.status >= 500 and answer.status != 503:
            arena.outcome.violate(f"{response.path}: status {answer.status}")
        elif answer.status == 503:
            arena.outcome.count("503")
            excused = any(outage.began <= response.moment <= outage.ended + grace for outage in outages)
            arena.outcome.check(excused, f"{response.path}: 503 later than {grace:.0f} s after the database was back")
