"""A model of the database: what PostgreSQL promises, what it may forget, and how its connections break.

Commits go to a log. A synchronous one flushes all before it; of the rest a crash may forget what is younger than 0.6 s,
from the end (`wal_writer_delay`). The outcome of a statement may be unknown to whoever sent it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from llmchatbot.errors import DatabaseUnavailable, NotFound
from llmchatbot.models.generations import Generation
from llmchatbot.streaming import payloads
from llmchatbot.streaming.store import Batch, Ending, Finish

T = TypeVar("T")
Undo = Callable[[], None]
_FORGOTTEN_SECONDS = 0.6


class Row(msgspec.Struct, frozen=True):
    """One event as a statement brings it."""

    generation_id: UUID
    seq: int
    epoch: int
    payload: str


class Rules(msgspec.Struct, kw_only=True):
    """What the statements check. A test that turns one off must see the simulation fail."""

    fence: bool = True
    epoch: bool = True
    owner: bool = True
    conflict: bool = True
    gap: bool = True
    own_orphans: bool = True
    cut_off: bool = True
    lost_connection: bool = True


class Chances(msgspec.Struct, kw_only=True):
    """How likely a statement fails before or after its commit; all zero once the faults are over."""

    error: float = 0.0
    unknown: float = 0.0
    slow: float = 0.0


class StoredEvent(msgspec.Struct, frozen=True):
    payload: str
    epoch: int


class NodeRow(msgspec.Struct):
    lease_until: float
    fenced: bool = False


class GenerationRow(msgspec.Struct):
    """The columns that change."""

    generation: Generation
    created: float
    ending: Ending | None = None
    ended_at: float = 0.0

    @property
    def active(self) -> bool:
        return not self.generation.status.terminal


class ModelDatabase:
    def __init__(self, rng: random.Random, rules: Rules) -> None:
        self.rng = rng
        self.rules = rules
        self.chances = Chances()
        self.up = True
        self.incarnation = 0
        self.clock_offset = 0.0
        self.nodes: dict[UUID, NodeRow] = {}
        self.generations: dict[UUID, GenerationRow] = {}
        self.events: dict[UUID, dict[int, StoredEvent]] = {}
        self.usage: Counter[UUID] = Counter()
        self.violations: list[str] = []
        # Called after each statement that stored events: a crash at the worst moment.
        self.after_append: Callable[[], None] = lambda: None
        # Statements under way that hold a node's row: nobody can fence it meanwhile.
        self.locks: Counter[UUID] = Counter()
        # Rounds of a node under way, whether its row is locked or, by a broken rule, is not.
        self.rounds: Counter[UUID] = Counter()
        # Nodes whose rounds under way stand still in the server.
        self.stalled: set[UUID] = set()
        self.two_faults: set[UUID] = set()
        self._forgotten: dict[UUID, set[int]] = defaultdict(set)
        self._log: list[tuple[float, Undo]] = []

    def now(self) -> float:
        """The clock of the server, which may be set while it runs."""
        return asyncio.get_running_loop().time() + self.clock_offset

    def commit(self, undo: Undo, *, synchronous: bool = True) -> None:
        if synchronous:
            self._log.clear()
        else:
            self._log.append((asyncio.get_running_loop().time(), undo))

    def crash(self) -> None:
        """Everybody's connections break; the end of what was committed without waiting may be forgotten."""
        self.up = False
        self.incarnation += 1
        young = asyncio.get_running_loop().time() - _FORGOTTEN_SECONDS
        safe = sum(moment < young for moment, _ in self._log)
        kept = self.rng.randint(safe, len(self._log))
        for _, undo in reversed(self._log[kept:]):
            undo()
        self._log.clear()

    def note_claims(self, claimed: Sequence[UUID]) -> None:
        """Whose last events the database forgot before their node could store them again: two faults at once.

        What was shown of these may differ from what is stored; no protocol without a wait for the disk can help that.
        """
        self.two_faults |= {generation_id for generation_id in claimed if self._forgotten.get(generation_id)}

    def note_shown(self, generation_id: UUID, seq: int, payload: str) -> None:
        """I3, in the moment in which a reader sees it: only what a crash has forgotten may be missing."""
        stored = self.events[generation_id].get(seq)
        if stored is None and seq not in self._forgotten[generation_id]:
            self.violate(f"I3 event {seq} of {generation_id} was shown before it was stored")
        if stored is not None and stored.payload != payload and generation_id not in self.two_faults:
            self.violate(f"I3 event {seq} of {generation_id} was shown and is not what is stored")

    def violate(self, what: str) -> None:
        self.violations.append(f"{asyncio.get_running_loop().time():.3f} s: {what}")

    def is_fenced(self, node_id: UUID) -> bool:
        row = self.nodes.get(node_id)
        return row is None or row.fenced

    def change(self, generation_id: UUID, **values: Any) -> Generation:
        row = self.generations[generation_id]
        row.generation = msgspec.structs.replace(row.generation, **values)
        return row.generation

    def insert(self, generation: Generation, first_events: Sequence[str]) -> None:
        """The transaction of a send."""
        self.generations[generation.id] = GenerationRow(generation, self.now())
        self.events[generation.id] = {
            seq: StoredEvent(payload, generation.epoch) for seq, payload in enumerate(first_events)
        }
        self.commit(lambda: None)

    async def append(self, node_id: UUID, rows: Sequence[Row]) -> int:
        """A statement sees the epochs as they were when it began; its lock on the node is what holds off a takeover."""
        incarnation = self.incarnation
        if self.rules.fence:
            if self.is_fenced(node_id):
                return 0
            self.locks[node_id] += 1
        self.rounds[node_id] += 1
        try:
            admitted = [row for row in rows if self._may_write(node_id, row)]
            if self.rng.random() < self.chances.slow:
                await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.3, 4.5)))
            while node_id in self.stalled:  # noqa: ASYNC110 - a model
                await asyncio.sleep(0.1)
            if incarnation != self.incarnation:
                return 0
            return self._insert(admitted)
        finally:
            self.rounds[node_id] -= 1
            if self.rules.fence:
                self.locks[node_id] -= 1

    def _insert(self, rows: Sequence[Row]) -> int:
        stored: list[Row] = []
        for row in rows:
            log = self.events[row.generation_id]
            if row.seq in log:
                if not self.rules.conflict:
                    raise KeyError("duplicate key value violates unique constraint")
                continue
            log[row.seq] = StoredEvent(row.payload, row.epoch)
            self._forgotten[row.generation_id].discard(row.seq)
            stored.append(row)

        def undo() -> None:
            for row in stored:
                self.events[row.generation_id].pop(row.seq, None)
                self._forgotten[row.generation_id].add(row.seq)

        if stored:
            self.commit(undo, synchronous=False)
            for generation_id in {row.generation_id for row in stored}:
                self._check_log(generation_id)
            self.after_append()
        return len(stored)

    def _may_write(self, node_id: UUID, row: Row) -> bool:
        known = self.generations.get(row.generation_id)
        if known is None or not known.active:
            return False
        mine = known.generation.owner_node == node_id or not self.rules.owner
        return mine and (known.generation.epoch == row.epoch or not self.rules.epoch)

    def _check_log(self, generation_id: UUID) -> None:
        """I1 and I4, after each step; and epochs never go back along the log (I2)."""
        log = self.events[generation_id]
        if sorted(log) != list(range(len(log))):
            self.violate(f"I1 a gap in the log of {generation_id}: {sorted(log)}")
        ordered = [log[seq] for seq in sorted(log)]
        if any(one.epoch > two.epoch for one, two in itertools.pairwise(ordered)):
            self.violate(f"I2 an event of an older epoch behind one of a newer in {generation_id}")
        ends = [seq for seq in sorted(log) if payloads.is_terminal(log[seq].payload)]
        if ends and ends != [max(log)]:
            self.violate(f"I4 terminal events {ends} of {max(log)} in {generation_id}")

    def stale(self, node_id: UUID, epochs: dict[UUID, int]) -> set[UUID]:
        fenced = self.is_fenced(node_id)
        return {
            generation_id
            for generation_id, epoch in epochs.items()
            if fenced
            or (row := self.generations.get(generation_id)) is None
            or not row.active
            or row.generation.epoch != epoch
            or (self.rules.owner and row.generation.owner_node != node_id)
        }

    def finish(self, ending: Ending) -> Finish:
        row = self.generations.get(ending.generation_id)
        if row is None:
            return Finish.LOST
        generation = row.generation
        same = generation.epoch == ending.epoch
        if not row.active:
            repeated = same and generation.status is ending.status and generation.last_seq == ending.seq
            return Finish.DONE if repeated else Finish.LOST
        if not same and self.rules.epoch:
            return Finish.LOST
        log = self.events[ending.generation_id]
        if self.rules.gap and len(log) != ending.seq:
            return Finish.GAP
        log[ending.seq] = StoredEvent(ending.payload, ending.epoch)
        self.change(ending.generation_id, status=ending.status, last_seq=ending.seq)
        row.ending, row.ended_at = ending, asyncio.get_running_loop().time()
        self.usage[ending.generation_id] += 1
        self.commit(lambda: None)
        self._check_log(ending.generation_id)
        stored = payloads.text_of(log[seq].payload for seq in sorted(log))
        if stored != ending.content:
            self.violate(f"I5 the text of {ending.generation_id} is not the concatenation of its deltas")
        return Finish.DONE

    def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        log = self.events.get(generation_id, {})
        return [(seq, log[seq].payload) for seq in sorted(log) if seq >= first][:limit]

    def get_owned(self, generation_id: UUID) -> Generation:
        if generation_id not in self.generations:
            raise NotFound
        return self.generations[generation_id].generation


class Handle:
    """The connections of one node. `gate` is awaited around each statement: a node that hangs gets no further."""

    def __init__(self, database: ModelDatabase, gate: Callable[[], Awaitable[None]]) -> None:
        self.database = database
        self.gate = gate
        # How often the dedicated connection was opened.
        self.opened = 1
        self._incarnation = database.incarnation

    async def run(self, statement: Callable[[], T], *, dedicated: bool = False) -> T:
        """A statement that takes no time of its own."""

        async def run() -> T:
            return statement()

        return await self.run_slowly(run, dedicated=dedicated)

    async def run_slowly(self, statement: Callable[[], Awaitable[T]], *, dedicated: bool = False) -> T:
        """Raises DatabaseUnavailable before or after the commit. A dedicated connection tells once that it was lost."""
        database, rng = self.database, self.database.rng
        await self.gate()
        await self._travel()
        await self.gate()
        if dedicated and database.up and self._incarnation != database.incarnation:
            self._incarnation = database.incarnation
            if database.rules.lost_connection:
                self.opened += 1
                raise DatabaseUnavailable
        if not database.up or rng.random() < database.chances.error:
            raise DatabaseUnavailable
        before = database.incarnation
        result = await statement()
        await self._travel()
        await self.gate()
        if rng.random() < database.chances.unknown or before != database.incarnation:
            raise DatabaseUnavailable
        return result

    def require_connection(self, number: int) -> None:
        """Raises DatabaseUnavailable unless the dedicated connection is still this one; 0: any."""
        if number not in {0, self.opened} and self.database.rules.lost_connection:
            raise DatabaseUnavailable

    async def _travel(self) -> None:
        if self.database.rng.random() < self.database.chances.slow:
            await asyncio.sleep(self.database.rng.uniform(0.001, 0.4))
        else:
            await asyncio.sleep(0)


class ModelStore:
    """`streaming.store.Store` over a handle: rounds on a connection of their own, the rest from the pool."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._number = 0

    async def append(self, node_id: UUID, batches: Sequence[Batch]) -> int:
        """As `PostgresAnswerLog` does it: on another connection than the last one nothing is stored, once."""
        taken = [
            Row(batch.generation_id, seq, batch.epoch, payload)
            for batch in batches
            for seq, payload in enumerate(batch.payloads, batch.first)
        ]
        number, self._number = self._number, 0

        async def statement() -> int:
            self._handle.require_connection(number)
            return await self._handle.database.append(node_id, taken)

        stored = await self._handle.run_slowly(statement, dedicated=True)
        self._number = self._handle.opened
        return stored

    async def stale(self, node_id: UUID, epochs: dict[UUID, int]) -> set[UUID]:
        return await self._handle.run(lambda: self._handle.database.stale(node_id, epochs), dedicated=True)

    async def finish(self, ending: Ending) -> Finish:
        return await self._handle.run(lambda: self._handle.database.finish(ending))

    async def read(self, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        return await self._handle.run(lambda: self._handle.database.read(generation_id, first, limit))
