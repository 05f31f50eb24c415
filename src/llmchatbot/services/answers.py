"""Making answers: one supervised job per generation of this process, from the prompt to the terminal transaction.

A job belongs to its generation, never to a connection. It ends in one of four ways: the model said that it is done,
it failed, somebody stopped it, or the process lost it (fenced, handed over, deleted) and must not write any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import aclosing
from uuid import UUID

from llmchatbot.config import LimitSettings
from llmchatbot.errors import AnswerTooLong, AppError, DatabaseUnavailable, ModelError, ModelInterrupted, ModelRefused
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation, Status
from llmchatbot.services.jobs import Job, Pace, ending_of, pace_of
from llmchatbot.services.prompts import Chosen, PromptBuilder
from llmchatbot.services.sinks import JobSink
from llmchatbot.streaming import payloads, wakeups
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.store import Batch, Ending, Finish, Store
from llmchatbot.streaming.tails import Tail, Tails
from llmchatbot.streaming.wakeups import WakeUps
from llmchatbot.streaming.writer import Writer
from llmchatbot.tasks import Supervisor

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 1.0
_LONGEST_PAUSE_AFTER_FAULT = 60.0
# After so many faults in storing an end, the provider's numbers are left out of it.
_FAULTS_WITH_NUMBERS = 3
_BEGIN_SECONDS = 60.0
# Rows of one statement when a whole log is stored again.
_REPLAY_ROWS = 5000


class AnswerMaker:
    """All jobs of this process."""

    def __init__(
        self,
        *,
        gateway: ModelGateway,
        prompts: PromptBuilder,
        store: Store,
        writer: Writer,
        tails: Tails,
        wakeups: WakeUps,
        limits: LimitSettings,
        supervisor: Supervisor,
        on_finished: Callable[[Generation, Status], None] = lambda generation, status: None,
    ) -> None:
        self._gateway = gateway
        self._prompts = prompts
        self._store = store
        self._writer = writer
        self._tails = tails
        self._wakeups = wakeups
        self._limits = limits
        self._supervisor = supervisor
        self._jobs: dict[UUID, Job] = {}
        # About to be committed, and started right after.
        self._reserved: set[UUID] = set()
        self.on_finished = on_finished
        self.on_lost: Callable[[Generation], None] = lambda generation: None
        self.on_paced: Callable[[Pace], None] = lambda pace: None
        writer.on_lost = self._on_lost

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def generation_ids(self) -> list[UUID]:
        """All that are in hand here; what this node owns beside them, nobody makes."""
        return [*self._jobs, *self._reserved]

    @contextlib.contextmanager
    def reserved(self, generation_id: UUID) -> Iterator[None]:
        """It is being committed and `start` follows. When it does not, the node finds it as an orphan of its own."""
        self._reserved.add(generation_id)
        try:
            yield
        finally:
            self._reserved.discard(generation_id)

    def makes(self, generation_id: UUID) -> bool:
        return generation_id in self._jobs

    def start(self, generation: Generation, stored: list[str], chosen: Chosen | None = None) -> Tail:
        """Begin or go on. `stored` are the events that the log holds already, from 0 on.

        `chosen` is what the model is to be sent, where that is on record already.

        A send that was so slow to begin that its answer was claimed meanwhile, under a later epoch, begins nothing.
        """
        known = self._jobs.get(generation.id)
        if known is not None and known.generation.epoch >= generation.epoch:
            return known.draft.tail
        tail = self._tail(generation.id, stored)
        draft = Draft.of_log(tail, stored, epoch=generation.epoch)
        job = self._jobs[generation.id] = Job(generation, draft, chosen)
        self._supervisor.spawn(self._run(job), name=f"answer {generation.id}")
        return tail

    def announce(self, user_id: UUID) -> None:
        """Tell the person's other devices that an answer begins; whoever has asked does not wait for the telling."""
        self._supervisor.spawn(self._wakeups.publish(wakeups.USER_EVENT, str(user_id)), name=f"feed {user_id}")

    def end(self, generation: Generation, stored: list[str], status: Status, failure: ModelError | None) -> Tail:
        """End an answer that was taken over and cannot go on; its text is kept."""
        tail = self._tail(generation.id, stored)
        draft = Draft.of_log(tail, stored, epoch=generation.epoch)
        job = self._jobs[generation.id] = Job(generation, draft)
        job.stopping = status is Status.STOPPED
        self._supervisor.spawn(self._run(job, failure, consume=False), name=f"end {generation.id}")
        return tail

    def _tail(self, generation_id: UUID, stored: list[str]) -> Tail:
        tail = self._tails.open(generation_id)
        if tail.payloads != stored[: len(tail.payloads)]:
            # A killed database server has forgotten what this process still remembers; readers begin anew.
            self._tails.drop(generation_id)
            tail = self._tails.open(generation_id)
        tail.extend(0, stored)
        return tail

    def stop(self, generation_id: UUID) -> bool:
        """Close the upstream and keep the text; False when the answer is not made here."""
        job = self._jobs.get(generation_id)
        if job is None:
            return False
        # Once only: a second cancellation would hit the closing of the upstream's connection.
        if not job.stopping and job.consumer is not None:
            job.consumer.cancel()
        job.stopping = True
        return True

    async def abandon(self, generation_ids: list[UUID]) -> None:
        """Stop writing these, without an end: another process goes on with them. Returns when all are silent."""
        jobs = [self._jobs[generation_id] for generation_id in generation_ids if generation_id in self._jobs]
        for job in jobs:
            job.abandon()
            if job.consumer is not None:
                job.consumer.cancel()
        for job in jobs:
            await job.done.wait()

    def forget(self, generation_ids: list[UUID]) -> None:
        """These were abandoned and did not fall silent: nothing that they still write is stored or shown."""
        for generation_id in generation_ids:
            job = self._jobs.pop(generation_id, None)
            if job is not None:
                # The store refuses them too, but a round may have the next owner's draft in it, which may be this node.
                job.draft.lost = True
                # Nobody feeds it here any more: readers ask anew.
                self._tails.drop(generation_id)

    async def settle(self, generation_ids: list[UUID]) -> None:
        """Store what is pending of these."""
        for generation_id in generation_ids:
            if (job := self._jobs.get(generation_id)) is not None:
                await self._writer.settle(job.draft)

    def _on_lost(self, draft: Draft) -> None:
        job = self._jobs.get(draft.generation_id)
        if job is not None:
            logger.warning("generation %s is not ours any more; its model call is closed", draft.generation_id)
            job.abandon()
            if job.consumer is not None:
                job.consumer.cancel()

    async def _run(self, job: Job, failure: ModelError | None = None, *, consume: bool = True) -> None:
        generation_id = job.generation.id
        try:
            if consume:
                failure = await self._consume_to_end(job)
            if not (job.abandoned or job.draft.lost):
                await self._finish(job, failure)
        finally:
            # A cancelled process leaves its lease to run out; readers elsewhere follow the log.
            if self._jobs.get(generation_id) is job:
                if job.draft.lost or job.abandoned or not job.draft.tail.ended:
                    # Nobody feeds it here any more: readers ask anew.
                    self._tails.drop(generation_id)
                del self._jobs[generation_id]
            job.done.set()

    async def _consume_to_end(self, job: Job) -> ModelError | None:
        """None when the model said that it is done, or somebody stopped it."""
        # Its result is looked at below, so it is not the supervisor's to log.
        job.consumer = asyncio.create_task(self._consume(job), name=f"model {job.generation.id}")
        if job.stopping or job.abandoned:
            job.consumer.cancel()
        try:
            await asyncio.wait([job.consumer])
            job.consumer.result()
        except asyncio.CancelledError:
            if not (job.stopping or job.abandoned):
                # Not ours: the whole process ends. Close the upstream before going.
                job.consumer.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await job.consumer
                raise
        except ModelError as error:
            return error
        except DatabaseUnavailable as error:
            logger.warning("generation %s could not begin: the database is away", job.generation.id)
            interrupted = ModelInterrupted("The answer could not be begun; try again.")
            interrupted.__cause__ = error
            return interrupted
        except AppError as error:
            # A refusal that came after the commit, e.g. a message too long for the model, is an event.
            refused = ModelRefused(error.detail)
            refused.__cause__ = error
            return refused
        except Exception as error:
            logger.exception("generation %s failed by a fault of ours", job.generation.id)
            failure = ModelInterrupted()
            failure.__cause__ = error
            return failure
        return None

    async def _consume(self, job: Job) -> None:
        """Relay the model's events into the draft. Raises ModelError, and ModelInterrupted without an explicit end."""
        chosen = job.chosen or await self._prompt(job)
        if chosen is None:
            job.abandon()
            return
        if job.stopping or job.abandoned:
            # Asked while the prompt was read. The cancellation may have got lost in there, and it comes once only.
            return
        request = chosen.request
        job.prompt_texts = [message.content for message in request.messages]
        for notice in chosen.notices:
            job.draft.add_event(payloads.notice(notice.code, notice.text, notice.data))
        loop = asyncio.get_running_loop()
        job.asked_at, before = loop.time(), job.draft.bytes

        sink = JobSink(job, self._writer, limit_bytes=self._limits.answer_bytes)
        try:
            async with (
                asyncio.timeout(self._limits.answer_time),
                aclosing(self._gateway.stream(request, sink)) as batches,
            ):
                async for batch in batches:
                    sink.events(batch)
                    if job.first_at is None and job.draft.bytes > before:
                        job.first_at = loop.time()
        except TimeoutError as error:
            raise AnswerTooLong(f"The answer took longer than {self._limits.answer_time:.0f} seconds.") from error
        if job.finish_reason is None:
            raise ModelInterrupted

    async def _prompt(self, job: Job) -> Chosen | None:
        """Waits for the database: the question is stored, so its answer goes on as soon as it can be read.

        Raises DatabaseUnavailable after a minute.
        """
        deadline = asyncio.get_running_loop().time() + _BEGIN_SECONDS
        pause = 0.05
        while True:
            try:
                return await self._prompts.build(job.generation, prefix=job.draft.text)
            except DatabaseUnavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _finish(self, job: Job, failure: ModelError | None) -> None:
        """Store the end and tell everybody, unless the answer is somebody else's by now."""
        await self._writer.settle(job.draft)
        if job.draft.lost:
            return
        made_at = asyncio.get_running_loop().time()
        stored = await self._store_end(job, failure)
        if stored is None:
            return
        ending, outcome = stored
        if outcome is Finish.LOST:
            job.draft.lost = True
            self.on_lost(job.generation)
            return
        job.draft.tail.extend(ending.seq, [ending.payload])
        await self._wakeups.publish(wakeups.ENDED, str(job.generation.id))
        await self._wakeups.publish(wakeups.USER_EVENT, str(job.generation.user_id))
        self.on_paced(pace_of(job, ending.status, ending.usage.output_tokens, made_at))
        self.on_finished(job.generation, ending.status)

    async def _store_end(self, job: Job, failure: ModelError | None) -> tuple[Ending, Finish] | None:
        """Repeats the terminal transaction until it is known to be stored: an answer is never left without an end.

        None when it was abandoned after a fault: whoever abandons waits for us, and another process goes on with it.
        """
        ending = ending_of(job, failure, self._prompts)
        pause, longest, faults = 0.05, _LONGEST_PAUSE, 0
        while True:
            try:
                outcome = await self._store.finish(ending)
                if outcome is not Finish.GAP:
                    return ending, outcome
                await self._store_again(job.draft)
            except DatabaseUnavailable:
                logger.info("the end of generation %s waits for the database", job.generation.id)
            except Exception:
                # The text exists whole nowhere else yet: a fault of ours must not make somebody else begin again.
                logger.exception("the end of generation %s could not be stored; it is tried again", job.generation.id)
                faults, longest = faults + 1, _LONGEST_PAUSE_AFTER_FAULT
                if faults == _FAULTS_WITH_NUMBERS:
                    # They are all in it that a stranger has chosen freely; an end without them is better than none.
                    ending = ending_of(job, failure, self._prompts, counted=False)
            if not faults:
                await asyncio.sleep(pause)
            elif await job.abandoned_within(pause):
                return None
            pause = min(pause * 2, longest)

    async def _store_again(self, draft: Draft) -> None:
        logger.warning("events of generation %s are missing in the log; storing them again", draft.generation_id)
        tail = draft.tail
        for first in range(0, len(tail.payloads), _REPLAY_ROWS):
            events = tail.payloads[first : first + _REPLAY_ROWS]
            await self._writer.append_again(Batch(draft.generation_id, draft.epoch, first, events))
