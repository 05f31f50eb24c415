"""Where a reader starts, at the moments that are hard to meet from outside (protocol §2 and §4)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

import msgspec
import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.ids import new_id
from llmchatbot.models.generations import Cursor, Generation, Status
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.generations import GenerationService, Reading
from llmchatbot.streaming import payloads
from llmchatbot.streaming.followers import Followers
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.streams import Stream
from llmchatbot.streaming.tails import Tails
from llmchatbot.streaming.wakeups import LocalWakeUps
from llmchatbot.tasks import Supervisor

START = '{"type":"start"}'
END = '{"type":"complete","status":"completed"}'


class Log:
    """A store of one answer that is read, and the row of its generation."""

    def __init__(self, generation: Generation, events: list[str]) -> None:
        self.generation = generation
        self.events = events
        self.away = False
        self.largest = 0
        self.fault: Exception | None = None

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        if self.away:
            raise DatabaseUnavailable
        if self.fault is not None:
            raise self.fault
        found = list(enumerate(self.events))[first : first + limit]
        self.largest = max(self.largest, len(found))
        return found

    async def get_owned(self, database: object, user_id: UUID, generation_id: UUID) -> Generation:
        if self.away:
            raise DatabaseUnavailable
        return self.generation


class Maker:
    """Makes nothing here."""

    def makes(self, generation_id: UUID) -> bool:
        return False


def generation(status: Status, last: int | None = None) -> Generation:
    values: dict[str, Any] = dict.fromkeys(Generation.__struct_fields__)
    values |= {name: new_id() for name in ("id", "user_id", "chat_id", "message_id", "user_message_id")}
    values |= {"status": status, "epoch": 1, "model": "m", "parameters": {}, "prefix": "", "derived_key": False}
    return Generation(**values | {"last_seq": last})


class Bench:
    """The service on a log, and readers of it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.tails = Tails()
        self.supervisor = Supervisor("test")
        store, wakeups = cast("Store", log), LocalWakeUps()
        self.followers = Followers(
            store=store,
            tails=self.tails,
            wakeups=wakeups,
            clock=ManualClock(),
            node_id=new_id,
            supervisor=self.supervisor,
            poll_seconds=0.001,
        )
        self.service = GenerationService(
            database=cast("Database", None),
            store=store,
            tails=self.tails,
            followers=self.followers,
            maker=cast("AnswerMaker", Maker()),
            wakeups=wakeups,
            clock=ManualClock(),
            ticket_seconds=60,
        )

    async def reading(self, seq: int | None = None) -> Reading:
        known = self.log.generation
        return await self.service.read(known.user_id, known.id, None if seq is None else Cursor(known.id, seq))

    async def shown(self, reading: Reading) -> str:
        """All that its reader gets."""
        written: list[bytes] = []

        async def send(data: bytes, more: bool) -> None:
            written.append(data)

        stream = Stream(
            reading.source, seq=reading.seq, wire=Format.SSE, send=send, session_id=None, clock=ManualClock()
        )
        await asyncio.wait_for(stream.run(), 5)
        return b"".join(written).decode()


@pytest.fixture
def patched() -> Iterator[Any]:
    with patch("llmchatbot.services.generations.generations") as repository:
        yield repository


def bench_of(repository: Any, known: Generation, events: list[str]) -> Bench:
    log = Log(known, events)
    repository.get_owned = log.get_owned
    return Bench(log)


async def test_old_answer_is_read_a_page_at_a_time(patched: Any) -> None:
    """A reader that takes nothing would otherwise hold a whole log (protocol §5: bounded memory)."""
    events = [START, *(payloads.token(f"{number} ") for number in range(2000)), END]
    bench = bench_of(patched, generation(Status.COMPLETED, len(events) - 1), events)
    shown = await bench.shown(await bench.reading())
    assert shown.count("\n\n") == len(events)
    assert shown.endswith(f"data: {END}\n\n")
    assert bench.log.largest <= 256
    assert (await bench.reading(len(events) - 1)).nothing_left
    assert (await bench.shown(await bench.reading(len(events) - 3))).count("\n\n") == 2


async def test_reader_of_an_old_answer_is_sent_to_ask_anew_when_its_log_goes_or_the_database_does(patched: Any) -> None:
    events = [START, *(payloads.token("a") for _ in range(600)), END]
    for away in (True, False):
        bench = bench_of(patched, generation(Status.COMPLETED, len(events) - 1), list(events))
        reading = await bench.reading()
        bench.log.away = away
        if not away:
            bench.log.events.clear()
        shown = await bench.shown(reading)
        assert f"id: {bench.log.generation.id}.255\n" in shown
        assert '"code":"reconnect"' in shown.split("\n\n")[-2]


async def test_end_that_came_while_the_log_was_looked_at_is_not_hidden_by_a_reset(patched: Any) -> None:
    """A cursor beyond the end of a running answer, which ends between the look at its row and at its log."""
    known = generation(Status.RUNNING)
    bench = bench_of(patched, known, [START, payloads.token("a"), END])

    async def get_owned(database: object, user_id: UUID, generation_id: UUID) -> Generation:
        ended, bench.log.generation = bench.log.generation, generation_that_ended
        return ended

    class Row:
        status, last_seq, content = Status.COMPLETED, 2, "a"

    async def find_ended(database: object, user_id: UUID, generation_id: UUID) -> Any:
        return Row

    generation_that_ended = msgspec.structs.replace(known, status=Status.COMPLETED, last_seq=2)
    patched.get_owned, patched.find_ended = get_owned, find_ended
    shown = await bench.shown(await bench.reading(99))
    assert shown.split("\n\n")[-2].endswith(f"data: {END}")
    assert '"type":"reset"' in shown
    await bench.supervisor.close()


async def test_request_is_not_refused_after_its_commit_when_the_database_goes(patched: Any) -> None:
    """protocol §2: what goes wrong later is no 5xx. The answer was over before its first reader was there."""
    bench = bench_of(patched, generation(Status.COMPLETED, 2), [START, payloads.token("a"), END])
    bench.log.away = True
    shown = await bench.shown(await bench.service.read_sent(bench.log.generation))
    assert '"code":"reconnect"' in shown
    assert "id: " not in shown


async def test_readers_of_a_follower_that_died_are_sent_to_ask_anew(patched: Any) -> None:
    """A fault of ours must not leave them with heartbeats alone for ever."""
    bench = bench_of(patched, generation(Status.RUNNING), [START])
    reading = await bench.reading()
    showing = asyncio.create_task(bench.shown(reading))
    while reading.source.last < 0:  # noqa: ASYNC110 - somebody else's progress
        await asyncio.sleep(0.001)
    bench.log.fault = RuntimeError("a fault of ours")
    assert '"code":"reconnect"' in await asyncio.wait_for(showing, 5)
    assert bench.tails.find(bench.log.generation.id) is None
    await bench.supervisor.close()


async def test_answer_made_here_is_not_followed_any_more(patched: Any) -> None:
    """A reader may be told of an answer before its sender is: it must not give up a tail that our maker feeds."""
    bench = bench_of(patched, generation(Status.RUNNING), [START])
    reading = await bench.reading()
    bench.service.made_here(bench.log.generation.id)
    async with asyncio.timeout(5):
        while len(bench.supervisor):  # noqa: ASYNC110 - somebody else's progress
            await asyncio.sleep(0.001)
    assert bench.tails.find(bench.log.generation.id) is reading.source
    assert not reading.source.replaced


async def test_reader_that_comes_after_a_tail_was_dropped_is_fed(patched: Any) -> None:
    """Found by the simulation: a follower went on feeding the tail that its process had dropped, and whoever came
    next waited for ever, kept alive by heartbeats."""
    bench = bench_of(patched, generation(Status.RUNNING), [START])
    await bench.reading()
    bench.tails.drop(bench.log.generation.id)
    reading = await bench.reading()
    bench.log.events += [payloads.token("a"), END]
    assert (await bench.shown(reading)).endswith(f"data: {END}\n\n")
    await bench.supervisor.close()


async def test_answer_that_is_made_here_before_its_follower_has_begun_is_left_alone(patched: Any) -> None:
    bench = bench_of(patched, generation(Status.RUNNING), [START])
    reading = await bench.reading()
    bench.followers.release(bench.log.generation.id)
    async with asyncio.timeout(5):
        while len(bench.supervisor):  # noqa: ASYNC110 - somebody else's progress
            await asyncio.sleep(0.001)
    assert not reading.source.replaced
