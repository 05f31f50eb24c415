"""This process as a node: its lease, and taking over the answers of nodes that fell silent (protocol §6).

A node that was fenced while it slept loses its answers, tells nobody, and registers again under a new id.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from llmchatbot.config import StreamSettings
from llmchatbot.errors import DatabaseUnavailable, ModelInterrupted
from llmchatbot.ids import new_id
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation, Status
from llmchatbot.repositories import answer_log, generations, nodes
from llmchatbot.repositories.executor import Executor
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.streaming import payloads, wakeups
from llmchatbot.streaming.followers import Followers
from llmchatbot.streaming.wakeups import SharedWakeUps

logger = logging.getLogger(__name__)

_CLAIM_LIMIT = 16
_TICK_SECONDS = 1.0
_READ_LIMIT = 100_000
_HAND_OVER_SECONDS = 5.0
# An answer that was taken up so often ends whoever takes it up; it is not paid for once more.
_MOST_EPOCHS = 20
_LONGEST_REST = 60.0
# Part of a lease by which the database's clock may be ahead of ours before we say that it has jumped: statements that
# wait for their turn look like that. What a living node has left when it renews is always more.
_SLACK = 0.25
_MOST_TRIES = 1000


class Tries:
    """How often this node has taken each answer up, and until when it leaves it alone: 1, 2, 4 … 60 seconds."""

    def __init__(self) -> None:
        self._tries: dict[UUID, tuple[int, float]] = {}

    def note(self, generation_id: UUID, now: float) -> None:
        count, _ = self._tries.pop(generation_id, (0, 0.0))
        self._tries[generation_id] = (count + 1, now + min(2.0**count, _LONGEST_REST))
        if len(self._tries) > _MOST_TRIES:
            del self._tries[next(iter(self._tries))]

    def resting(self, now: float) -> list[UUID]:
        return [generation_id for generation_id, (_, until) in self._tries.items() if now < until]


class NodeService:
    def __init__(
        self,
        *,
        database: Executor,
        gateway: ModelGateway,
        wakeups: SharedWakeUps,
        settings: StreamSettings,
        name: str,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._wakeups = wakeups
        self._settings = settings
        self._name = name
        self._registered = False
        self._renewed = 0.0
        # Until then nobody is fenced.
        self._lenient_until = 0.0
        self._tries = Tries()
        self.id: UUID = new_id()
        self.draining = False

    def use(self, maker: AnswerMaker, followers: Followers) -> None:
        """The two that need this node's id themselves."""
        self._maker = maker
        self._followers = followers

    def start(self) -> None:
        self._wakeups.subscribe(wakeups.STOP, self._on_stop)

    def _on_stop(self, payload: str) -> None:
        self._maker.stop(UUID(payload))

    async def register(self) -> None:
        """Raises DatabaseUnavailable."""
        began = asyncio.get_running_loop().time()
        await nodes.register(self._database, self.id, self._name, self._settings.lease)
        self._registered = True
        self._renewed = began
        await self._wakeups.announce()

    async def run(self) -> None:
        """Once a second: stops that were asked for, orphans; every three seconds the lease."""
        while True:
            try:
                await self.tick()
            except DatabaseUnavailable:
                logger.info("node %s could not renew its lease: the database is away", self.id)
                self._note_outage()
            await asyncio.sleep(_TICK_SECONDS)

    def _note_outage(self) -> None:
        """Leases ran out while nobody could renew them: the others get the time to."""
        self._lenient_until = asyncio.get_running_loop().time() + self._settings.lease_renewal + _TICK_SECONDS

    async def tick(self) -> None:
        if not self._registered:
            await self.register()
        now = asyncio.get_running_loop().time()
        if now - self._renewed >= self._settings.lease_renewal - _TICK_SECONDS / 2:
            await self._renew(now)
        for generation_id in await generations.stop_requests(self._database, self.id):
            self._maker.stop(generation_id)
        self._wakeups.note_others(await nodes.others_live(self._database, self.id), now)
        if not self.draining:
            if now >= self._lenient_until:
                await self._fence_expired(now)
            await self._take_over(now)

    async def _renew(self, now: float) -> None:
        left = await nodes.renew(self._database, self.id, self._settings.lease)
        if left is None:
            await self._begin_again()
            return
        if left < self._least_left():
            self._note_jump()
        self._renewed = now

    async def _fence_expired(self, now: float) -> None:
        if not await nodes.fence_expired(self._database, self.id, self._least_left()):
            # Ours first: the others may not be as patient with us as we are with them. It also tells a jump from a
            # statement that had to wait.
            await self._renew(now)

    def _least_left(self) -> float:
        """What our lease has left by our own clock, less a little: with less by the database's, that one has jumped."""
        since = asyncio.get_running_loop().time() - self._renewed
        return max(0.0, self._settings.lease * (1 - _SLACK) - since)

    def _note_jump(self) -> None:
        """The database's clock was set, its machine slept, or we did: leases ran out that were renewed in time."""
        logger.warning("node %s: its lease has run down before its time; nobody is fenced for a while", self.id)
        self._note_outage()

    async def _begin_again(self) -> None:
        lost = self._maker.generation_ids
        logger.warning("node %s was fenced while it was silent; %d answers are others' now", self.id, len(lost))
        await self._silence(lost)
        self.id = new_id()
        await self.register()

    async def _silence(self, generation_ids: list[UUID]) -> None:
        """Until these are silent, but not for ever: a job that cannot end must not cost the node its place."""
        try:
            async with asyncio.timeout(min(_HAND_OVER_SECONDS, self._settings.lease * _SLACK)):
                await self._maker.abandon(generation_ids)
        except TimeoutError:
            logger.warning("node %s: some of %d lost answers do not end; they are let go", self.id, len(generation_ids))
            self._maker.forget(generation_ids)

    async def _take_over(self, now: float) -> None:
        """All there are, a handful at a time: other nodes get their share, and the lease its turn."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TICK_SECONDS
        while loop.time() < deadline:
            if await self._claim(now) < _CLAIM_LIMIT:
                return

    async def _claim(self, now: float) -> int:
        """How many answers were taken over."""
        # What dies again and again by a fault of ours, in its ending too, is not taken up each second for ever.
        held = [*self._maker.generation_ids, *self._tries.resting(now)]
        claimed = await generations.claim_orphans(
            self._database, self.id, held, own_after=self._settings.lease, limit=_CLAIM_LIMIT
        )
        # Ours under an older epoch: nodes are claimed from only after they were fenced, so these are lost.
        lost = [generation.id for generation in claimed if self._maker.makes(generation.id)]
        if lost:
            await self._silence(lost)
        for generation in claimed:
            self._tries.note(generation.id, now)
            await self._adopt(generation)
        return len(claimed)

    async def _adopt(self, generation: Generation) -> None:
        """Run it again, go on from its text, or end it as interrupted: what §6 of the protocol says."""
        stored = await self._whole_log(generation)
        self._followers.release(generation.id)
        if stored and payloads.is_terminal(stored[-1]):
            logger.error("generation %s has a terminal event and is not terminal", generation.id)
        if generation.stop_requested_at is not None:
            self._maker.end(generation, stored, Status.STOPPED, None)
        elif self._may_go_on(generation, stored):
            logger.info("node %s goes on with generation %s after %d events", self.id, generation.id, len(stored))
            self._maker.start(generation, stored)
        else:
            self._maker.end(generation, stored, Status.INTERRUPTED, ModelInterrupted())

    async def _whole_log(self, generation: Generation) -> list[str]:
        """The events up to the first gap, which only a killed database server leaves; what lies behind is dropped."""
        events = await answer_log.read(self._database, generation.id, 0, _READ_LIMIT)
        stored = [text for number, (seq, text) in enumerate(events) if seq == number]
        if len(stored) < len(events):
            logger.warning("generation %s: %d events lie behind a gap", generation.id, len(events) - len(stored))
            await answer_log.cut_off(self._database, generation.id, generation.epoch, len(stored))
        return stored

    def _may_go_on(self, generation: Generation, stored: list[str]) -> bool:
        if generation.epoch > _MOST_EPOCHS:
            return False
        # What the person asked to go on from is an event too, wherever among the first ones it stands.
        shown = sum(map(payloads.shows_something, stored))
        if payloads.text_of(stored) == generation.prefix and shown <= bool(generation.prefix):
            return True
        known = {model.name: model for model in self._gateway.describe()}
        model = known.get(generation.model)
        return model is not None and model.continues_prefix

    async def hand_over(self) -> None:
        """At the end of a drain: give up what is unfinished, fence ourselves. Raises DatabaseUnavailable."""
        unfinished = self._maker.generation_ids
        if unfinished:
            logger.info("handing over %d answers", len(unfinished))
            try:
                async with asyncio.timeout(_HAND_OVER_SECONDS):
                    await self._maker.abandon(unfinished)
            except TimeoutError as error:
                # Some wait for the database to take their end; their lease runs out.
                raise DatabaseUnavailable from error
        await nodes.fence(self._database, self.id)
