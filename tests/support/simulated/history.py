"""One history: people send, read and stop while a seed decides what breaks and when. Same seed, same history."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import patch
from uuid import UUID

from simulated.database import Chances, ModelDatabase, Rules
from simulated.parts import CONTINUES, ONCE, SETTINGS, Bus, Reader, SimulatedNode, text_of
from simulated.repositories import AnswerLog, Generations, Nodes
from simulated.virtual_time import InOrder, NothingToWaitForError, VirtualLoop

from llmchatbot.drill.outcome import Outcome
from llmchatbot.errors import AppError, DatabaseUnavailable
from llmchatbot.models.generations import Generation, Status
from llmchatbot.streaming import payloads

# Virtual seconds: how long things break, and how long all may take to come right after that.
_FAULTS_SECONDS = 9.0
_HEALING_SECONDS = 90.0
_PATIENCE = 20.0
# How many histories have a deploy in them, and how many readers take their time for each write.
_DRAINED = 0.25
_HUNG = 0.3
_SLOW = 0.15
# A stop whose hint was lost is found by the node's next look, a second later at the most.
_STOP_SECONDS = 2.0
# Three heartbeats, as the documented clients have it.
_SILENCE = 45.0


def replay(seed: int, rules: Rules | None = None, *, later: bool = True) -> list[str]:
    """The violations of one history; none when every promise was kept."""
    return play(seed, rules, later=later).violations()


def play(seed: int, rules: Rules | None = None, *, later: bool = True) -> History:
    """A history from its beginning to its end.

    `later`: with the kinds of trouble that were added later, drawn from random numbers of their own. Without them a
    seed is the history that it was before.
    """
    random.seed(seed)
    rng = random.Random(seed)
    ids = random.Random(seed + 1)

    def new_id() -> UUID:
        return UUID(int=ids.getrandbits(128))

    with (
        patch.multiple("llmchatbot.services.nodes", nodes=Nodes, generations=Generations, answer_log=AnswerLog),
        patch("llmchatbot.services.nodes.new_id", new_id),
        patch("llmchatbot.services.generations.generations", Generations),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        history = History(rng, rules or Rules(), new_id, random.Random(seed + 2) if later else None)
        try:
            runner.run(history.run())
        except NothingToWaitForError:
            history.database.violations.append("everything waits for something else")
    return history


class History:
    def __init__(
        self, rng: random.Random, rules: Rules, new_id: Callable[[], UUID], later: random.Random | None = None
    ) -> None:
        self.rng = rng
        self._later = later
        self.database = ModelDatabase(rng, rules)
        self._new_id = new_id
        self._bus = Bus(rng)
        self._nodes: list[SimulatedNode] = []
        self._readers: list[Reader] = []
        self._sends: InOrder[asyncio.Task[Any]] = InOrder()
        # Answer → when somebody first asked for its stop.
        self._stopped: dict[UUID, float] = {}
        self._models: dict[UUID, str] = {}
        self._breaks = 0.0
        self._uncertain = False
        self._node_faults = 0
        self._crashes_left = 0

    async def run(self) -> None:
        logging.getLogger("llmchatbot").setLevel(logging.CRITICAL)
        rng = self.rng
        # Swarm testing: each history knows some kinds of faults only, so that they do not hide each other.
        if rng.random() < 0.6:
            self.database.chances = Chances(error=rng.choice((0, 0.02)), unknown=rng.choice((0, 0.05)), slow=0.3)
        self._uncertain = bool(self.database.chances.slow)
        self._bus.loss = rng.choice((0.0, 0.0, 0.3, 1.0))
        self._breaks = rng.choice((0.0, 0.0, 0.03))
        for _ in range(rng.randint(1, 3)):
            self._start_node()
        if rng.random() < 0.4:
            self._crashes_left = 1
            self.database.after_append = self._maybe_crash_soon
        people = [self._person() for _ in range(rng.randint(1, 3))]
        faults = [self._fault() for _ in range(rng.randint(0, 3))]
        if self._later is not None and self._later.random() < _DRAINED:
            faults.append(self._drain_node(self._later))
        if self._later is not None and self._later.random() < _HUNG:
            faults.append(self._pause_in_a_round(self._later))
        jobs = [asyncio.ensure_future(job) for job in (*people, *faults)]
        try:
            await asyncio.sleep(_FAULTS_SECONDS)
            await self._heal()
            async with asyncio.timeout(_HEALING_SECONDS):
                await asyncio.gather(*jobs)
                while any(row.active for row in self.database.generations.values()):  # noqa: ASYNC110 - a model
                    await asyncio.sleep(0.5)
        except TimeoutError:
            self.database.violate("readers or answers that never end")
        finally:
            for job in (*jobs, *self._sends):
                job.cancel()
            for node in self._nodes:
                await node.crash()
            await asyncio.gather(*jobs, *self._sends, return_exceptions=True)

    def _start_node(self) -> None:
        node = SimulatedNode(len(self._nodes), self.database, self._bus, self.rng)
        node.gateway.breaks = self._breaks
        self._nodes.append(node)
        node.start()

    def _any_node(self) -> SimulatedNode:
        return self.rng.choice([node for node in self._nodes if node.alive])

    async def _heal(self) -> None:
        """No more faults; hints stay as lossy as they were, for ever."""
        self.database.chances = Chances()
        self._crashes_left = 0
        self.database.up = True
        for node in self._nodes:
            node.resume()

    async def _fault(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.1, _FAULTS_SECONDS - 1))
        kind = self.rng.choice((self._crash_node, self._pause_node, self._restart_database, self._set_clock))
        await kind()

    async def _crash_node(self) -> None:
        self._node_faults += 1
        await self._any_node().crash()
        self._start_node()

    async def _drain_node(self, rng: random.Random) -> None:
        """SIGTERM, as `Backend.drain` does it, and a new process in its place."""
        await asyncio.sleep(rng.uniform(0.1, _FAULTS_SECONDS - 1))
        alive = [node for node in self._nodes if node.alive and not node.node.draining]
        if not alive:
            return
        node = rng.choice(alive)
        self._node_faults += 1
        self._start_node()
        await node.drain(rng.uniform(0.0, 4.0))
        await node.crash()

    async def _pause_node(self) -> None:
        self._node_faults += 1
        node = self._any_node()
        node.pause()
        await asyncio.sleep(self.rng.uniform(0.5, 12))
        node.resume()

    async def _pause_in_a_round(self, rng: random.Random) -> None:
        """A node hangs, and what it sent the database before ends after its lease: what the fence is for."""
        await asyncio.sleep(rng.uniform(0.1, _FAULTS_SECONDS / 2))
        for _ in range(100):
            await asyncio.sleep(0.1)
            writing = [node for node in self._nodes if node.alive and self.database.rounds[node.node.id]]
            if writing:
                await self._stall(writing[0], rng.uniform(4, 9))
                return

    async def _stall(self, node: SimulatedNode, seconds: float) -> None:
        self._node_faults += 1
        stalled = node.node.id
        node.pause()
        self.database.stalled.add(stalled)
        await asyncio.sleep(seconds)
        self.database.stalled.discard(stalled)
        await asyncio.sleep(0.2)
        node.resume()

    async def _restart_database(self) -> None:
        self.database.crash()
        # Longer than a lease, now and then.
        away = self.rng.choice((0.0, 0.05, 0.5, 7.0))
        if away > SETTINGS.lease and self.database.chances.error + self.database.chances.unknown:
            # Statements that fail now and then may keep a node from renewing its lease in time.
            self._node_faults += 1
        await asyncio.sleep(away)
        self.database.up = True

    async def _set_clock(self) -> None:
        self._node_faults += 1
        self.database.clock_offset += self.rng.choice((-8.0, 3.0, 8.0))

    def _maybe_crash_soon(self) -> None:
        """Right after events were acknowledged is the worst moment for a database to forget."""
        if self._crashes_left and self.rng.random() < 0.1:
            self._crashes_left -= 1
            self._keep(self._crash_soon(self.rng.choice((0.0, 0.01, 0.15))))

    async def _crash_soon(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._restart_database()

    def _keep(self, job: Coroutine[Any, Any, None]) -> None:
        """It is looked after until the end of the history."""
        self._sends.add(asyncio.get_running_loop().create_task(job))

    async def _person(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 4.0))
        generation_id = self._new_id()
        self._models[generation_id] = self.rng.choice((CONTINUES, CONTINUES, ONCE))
        await self._send(generation_id)
        readers = [Reader(generation_id, Outcome("reader"), self.rng, self.rng.choice((0.0, 0.5, 0.9)))]
        if self.rng.random() < 0.5:
            readers.append(Reader(generation_id, Outcome("reader"), self.rng, 0.3))
        for reader in readers:
            reader.on_shown = self.database.note_shown
            if self._later is not None and self._later.random() < _SLOW:
                reader.seconds_a_write = self._later.uniform(0.0, 0.4)
        self._readers += readers
        jobs = [self._follow(reader) for reader in readers]
        if self.rng.random() < 0.3:
            jobs.append(self._stop(generation_id))
        await asyncio.gather(*jobs)

    async def _send(self, generation_id: UUID) -> None:
        """With a key, until it is known to be stored."""
        while generation_id not in self.database.generations:
            # Whoever hangs goes on with it when he wakes.
            sending = asyncio.get_running_loop().create_task(self._send_once(self._any_node(), generation_id))
            self._sends.add(sending)
            await asyncio.wait([sending], timeout=5)
            await asyncio.sleep(0.1)

    async def _send_once(self, node: SimulatedNode, generation_id: UUID) -> None:
        """As `MessageService` does it: one transaction, then the job."""
        if not node.is_ready or node.node.draining:
            return
        generation = _generation(generation_id, self._models[generation_id], node.node_id())
        events = [payloads.encode({"type": "start"})]

        def transaction() -> bool:
            if generation_id in self.database.generations:
                return False
            self.database.insert(generation, events)
            return True

        with node.maker.reserved(generation_id):
            try:
                is_new = await node.handle.run(transaction)
            except DatabaseUnavailable:
                return
            if is_new:
                node.maker.start(generation, list(events))
                node.generations.made_here(generation_id)

    async def _follow(self, reader: Reader) -> None:
        while not (reader.follower.ended or reader.told_to_go):
            node = self._any_node()
            task = asyncio.ensure_future(reader.read_once(node))
            node.streams.add(task)
            try:
                while not task.done() and asyncio.get_running_loop().time() - reader.heard_at < _SILENCE:
                    await asyncio.wait([task], timeout=5)
            finally:
                node.streams.discard(task)
                task.cancel()
            if not task.cancelled() and task.done() and (error := task.exception()) is not None:
                raise error
            await asyncio.sleep(0.1)

    async def _stop(self, generation_id: UUID) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 4.0))
        self._stopped.setdefault(generation_id, asyncio.get_running_loop().time())
        for _ in range(20):
            task = asyncio.ensure_future(self._any_node().generations.stop(generation_id, generation_id))
            await asyncio.wait([task], timeout=_PATIENCE)
            if not task.done():
                task.cancel()
            elif not task.cancelled() and not isinstance(task.exception(), AppError):
                self._check_receipt(generation_id, task.result().characters)
                return
            await asyncio.sleep(0.5)
        self.database.violate(f"no receipt for the stop of {generation_id}")

    def _check_receipt(self, generation_id: UUID, characters: int) -> None:
        ending = self.database.generations[generation_id].ending
        if ending is None or len(ending.content) != characters:
            self.database.violate(f"a wrong receipt for {generation_id}")

    def trace(self) -> tuple[object, ...]:
        """All that happened, and when: the same for the same seed."""
        logs = {known: sorted(log.items()) for known, log in self.database.events.items()}
        return self.rng.getstate(), logs, [reader.follower.times for reader in self._readers]

    def violations(self) -> list[str]:
        """What was noted on the way, and what must hold at the end."""
        found = list(self.database.violations)
        for generation_id in self.database.generations:
            found += [f"{generation_id} ({self._models[generation_id]}): {what}" for what in self._judge(generation_id)]
        for reader in self._readers:
            if reader.generation_id not in self.database.two_faults:
                found += reader.outcome.violations
                found += self._judge_reader(reader)
        return found

    @property
    def _calm(self) -> bool:
        """Nothing broke but hints."""
        return not (self._node_faults or self._uncertain or self.database.incarnation)

    def _judge(self, generation_id: UUID) -> list[str]:
        row = self.database.generations[generation_id]
        whole = text_of(generation_id)
        if row.ending is None:
            return [f"an orphan, {row.generation.status} under epoch {row.generation.epoch}"]
        found = []
        status, text = row.ending.status, row.ending.content
        if self.database.usage[generation_id] != 1:
            found.append(f"I6 {self.database.usage[generation_id]} usage rows")
        if not whole.startswith(text) or (status is Status.COMPLETED and text != whole):
            found.append("the text stored is not what the model said")
        if status is Status.STOPPED and generation_id not in self._stopped:
            found.append("stopped, and nobody asked for it")
        asked = self._stopped.get(generation_id)
        if asked is not None and self._calm and row.ended_at > asked + _STOP_SECONDS:
            found.append(f"it went on for {row.ended_at - asked:.1f} s after its stop")
        if status is Status.INTERRUPTED and not self._breaks and not self._node_faults:
            found.append("interrupted without a fault of a node or a model")
        return found

    def _judge_reader(self, reader: Reader) -> list[str]:
        log = self.database.events[reader.generation_id]
        ending = self.database.generations[reader.generation_id].ending
        found = []
        for seq, payload in reader.follower.payloads.items():
            if seq not in log or log[seq].payload != payload:
                found.append(f"I3 event {seq} of {reader.generation_id} was shown and is not what is stored")
                break
        if not reader.follower.ended:
            found.append(f"a reader of {reader.generation_id} has not seen its end")
        elif ending is not None and reader.follower.text != ending.content:
            found.append(f"a reader of {reader.generation_id} shows something else than what is stored")
        return found


def _generation(generation_id: UUID, model: str, node_id: UUID) -> Generation:
    return Generation(
        id=generation_id,
        user_id=generation_id,
        chat_id=generation_id,
        message_id=generation_id,
        user_message_id=generation_id,
        status=Status.QUEUED,
        epoch=1,
        owner_node=node_id,
        model=model,
        parameters={},
        prefix="",
        derived_key=False,
        last_seq=None,
        finish_reason=None,
        error_code=None,
        stop_requested_at=None,
        created_at=None,
        finished_at=None,
    )
