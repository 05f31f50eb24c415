"""An answer whose question is stored begins as soon as the database can be read, and gets its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from llmchatbot.clock import SystemClock
from llmchatbot.config import LimitSettings
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.ids import new_id
from llmchatbot.llm.events import Event, Finished, TextDelta, Usage
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway
from llmchatbot.llm.port import Sink
from llmchatbot.models.generations import Generation, Status
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.prompts import Chosen, PromptBuilder
from llmchatbot.streaming.store import Batch, Ending, Finish
from llmchatbot.streaming.tails import Tails
from llmchatbot.streaming.wakeups import LocalWakeUps
from llmchatbot.streaming.writer import Writer
from llmchatbot.tasks import Supervisor


class Store:
    """Takes everything."""

    def __init__(self) -> None:
        self.ending: Ending | None = None

    async def append(self, node_id: UUID, batches: Sequence[Batch]) -> int:
        return sum(len(batch.payloads) for batch in batches)

    async def stale(self, node_id: UUID, epochs: dict[UUID, int]) -> set[UUID]:
        return set()

    async def finish(self, ending: Ending) -> Finish:
        self.ending = ending
        return Finish.DONE

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        return []


class Prompts:
    """Away for the first tries."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def build(self, generation: Generation, *, prefix: str) -> Chosen:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable
        return Chosen(GatewayRequest(model="m", messages=()), {})

    def tokens(self, model_name: str, text: str) -> int:
        return 1

    def cost(self, model_name: str, usage: object) -> float:
        return 0.5


class Gateway:
    async def stream(self, request: GatewayRequest, sink: Sink) -> AsyncGenerator[list[Event], None]:
        yield [TextDelta("a"), Usage(7, 8), Finished("stop")]


class Refusing(Store):
    """Has a fault of its own the first times that an answer ends."""

    def __init__(self, faults: int) -> None:
        super().__init__()
        self.faults = faults

    async def finish(self, ending: Ending) -> Finish:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError
        return await super().finish(ending)


class Poisoned(Store):
    """Cannot write down what a provider has counted."""

    async def finish(self, ending: Ending) -> Finish:
        if not ending.usage.estimated:
            raise OverflowError
        return await super().finish(ending)


class Deaf(Prompts):
    """A cancellation gets lost in there."""

    def __init__(self) -> None:
        super().__init__(failures=0)
        self.began = asyncio.Event()

    async def build(self, generation: Generation, *, prefix: str) -> Chosen:
        self.began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        return await super().build(generation, prefix=prefix)


def make_maker(store: Store, prompts: Prompts, supervisor: Supervisor) -> AnswerMaker:
    writer = Writer(store, SystemClock(), node_id=new_id, round_seconds=0.001)
    supervisor.keep(writer.run, name="writer")
    return AnswerMaker(
        gateway=cast("ModelGateway", Gateway()),
        prompts=cast("PromptBuilder", prompts),
        store=store,
        writer=writer,
        tails=Tails(),
        wakeups=LocalWakeUps(),
        limits=LimitSettings(),
        supervisor=supervisor,
    )


def make_generation() -> Generation:
    identifiers: dict[str, Any] = dict.fromkeys(("last_seq", "finish_reason", "error_code", "stop_requested_at"))
    return Generation(
        id=new_id(),
        user_id=new_id(),
        chat_id=new_id(),
        message_id=new_id(),
        user_message_id=new_id(),
        status=Status.QUEUED,
        epoch=1,
        owner_node=None,
        model="m",
        parameters={},
        prefix="",
        derived_key=False,
        created_at=None,
        finished_at=None,
        **identifiers,
    )


@contextlib.asynccontextmanager
async def making(store: Store, *, prompts: Prompts | None = None) -> AsyncIterator[AnswerMaker]:
    """Begin one answer."""
    supervisor, generation = Supervisor("test"), make_generation()
    maker = make_maker(store, prompts or Prompts(failures=0), supervisor)
    try:
        maker.start(generation, ['{"type":"start"}'])
        yield maker
    finally:
        await supervisor.close()


async def answered(store: Store, *, failures: int = 0, deaf: Deaf | None = None) -> Ending:
    """Make one answer to its end; one whose prompt is `deaf` is stopped while that is read."""
    async with making(store, prompts=deaf or Prompts(failures=failures)) as maker, asyncio.timeout(5):
        if deaf is not None:
            await deaf.began.wait()
            for generation_id in maker.generation_ids:
                maker.stop(generation_id)
        while len(maker):  # noqa: ASYNC110 - the end of a job is nobody's event
            await asyncio.sleep(0.01)
    assert store.ending is not None
    return store.ending


async def test_answer_waits_for_a_database_that_went_away_right_after_its_question_was_stored() -> None:
    """Found by the drill `database-kill`: such an answer ended as interrupted before it had begun."""
    ending = await answered(Store(), failures=3)
    assert (ending.status, ending.content) == (Status.COMPLETED, "a")


async def test_end_that_a_fault_of_ours_refuses_is_tried_again_by_the_process_that_has_the_text() -> None:
    store = Refusing(faults=3)
    ending = await answered(store)
    assert (ending.status, ending.content) == (Status.COMPLETED, "a")
    assert not store.faults


async def test_end_whose_numbers_the_database_refuses_is_stored_with_numbers_of_ours() -> None:
    """The same end was tried for ever, and its chat stayed busy."""
    ending = await answered(Poisoned())
    assert (ending.status, ending.content, ending.cost) == (Status.COMPLETED, "a", None)
    assert json.loads(ending.payload)["usage"] == {"input_tokens": 0, "output_tokens": 1, "estimated": True}


async def test_end_that_a_fault_of_ours_refuses_a_few_times_keeps_the_numbers_of_its_provider() -> None:
    ending = await answered(Refusing(faults=2))
    assert (ending.usage.input_tokens, ending.usage.output_tokens, ending.cost) == (7, 8, 0.5)


async def test_answer_whose_end_is_refused_is_let_go_of_as_soon_as_it_is_abandoned() -> None:
    """A node that was fenced meanwhile waited for it for ever, instead of beginning again under a new name."""
    store = Refusing(faults=1_000_000)
    async with making(store) as maker:
        while store.faults > 1_000_000 - 5:  # noqa: ASYNC110 - a fault is nobody's event
            await asyncio.sleep(0.01)
        async with asyncio.timeout(0.5):
            await maker.abandon(maker.generation_ids)
        assert not len(maker)
    assert store.ending is None


async def test_answer_that_was_stopped_while_its_prompt_was_read_asks_no_model() -> None:
    """No later stop cancels again: the model was asked, paid for and waited for to its end."""
    ending = await answered(Store(), deaf=Deaf())
    assert (ending.status, ending.content) == (Status.STOPPED, "")


class Hanging(Store):
    """Never says whether it has stored an end."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.goes_on = asyncio.Event(), asyncio.Event()

    async def finish(self, ending: Ending) -> Finish:
        self.began.set()
        await self.goes_on.wait()
        return Finish.LOST


async def test_job_that_does_not_end_is_let_go_and_leaves_the_next_one_of_its_answer_alone() -> None:
    """A node that was fenced may take its own answer up again, in the same process."""
    store, supervisor, generation = Hanging(), Supervisor("test"), make_generation()
    maker = make_maker(store, Prompts(failures=0), supervisor)
    try:
        old = maker.start(generation, ['{"type":"start"}'])
        async with asyncio.timeout(5):
            await store.began.wait()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(maker.abandon([generation.id]), 0.05)
            maker.forget([generation.id])
            assert (len(maker), maker.makes(generation.id)) == (0, False)
            store.began.clear()
            new = maker.start(msgspec.structs.replace(generation, epoch=2), ['{"type":"start"}'])
            await store.began.wait()
        assert new is not old
        assert not new.ended
        store.goes_on.set()
    finally:
        await supervisor.close()
    assert len(maker) == 0
