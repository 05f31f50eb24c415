"""What surrounds the real core in the simulation: hints that get lost, models, nodes that crash and hang, readers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast
from uuid import UUID

from simulated.database import Handle, ModelDatabase, ModelStore
from simulated.repositories import Generations
from simulated.virtual_time import InOrder, LoopClock

from llmchatbot.config import LimitSettings, StreamSettings
from llmchatbot.database.pool import Database
from llmchatbot.drill.outcome import Outcome
from llmchatbot.drill.reading import BlockDecoder, Follower
from llmchatbot.errors import DatabaseUnavailable, ModelInterrupted, NotFound, Unavailable
from llmchatbot.llm.events import Event, Finished, TextDelta
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway, ModelInfo
from llmchatbot.llm.port import Sink
from llmchatbot.models.generations import Cursor, Generation
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.generations import GenerationService
from llmchatbot.services.nodes import NodeService
from llmchatbot.services.prompts import Chosen, PromptBuilder
from llmchatbot.streaming.followers import Followers, Watchers
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.streams import OpenStreams, Stream
from llmchatbot.streaming.tails import Tails
from llmchatbot.streaming.wakeups import SharedWakeUps
from llmchatbot.streaming.writer import Writer
from llmchatbot.tasks import Supervisor

SETTINGS = StreamSettings(round=0.1, heartbeat=15, poll=1, send_timeout=30, lease=5, lease_renewal=1.5)  # type: ignore[arg-type]  # Duration is a float
CONTINUES, ONCE = "continues", "once"
_TICK_SECONDS = 1.0


class Bus:
    """Carries hints between nodes: late, twice or not at all."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.loss = 0.0
        self.receivers: dict[int, Callable[[str], None]] = {}

    def send(self, message: str) -> None:
        loop = asyncio.get_running_loop()
        for receive in tuple(self.receivers.values()):
            if self.rng.random() >= self.loss:
                loop.call_later(self.rng.choice((0.0, 0.001, 0.3)), receive, message)
                if self.rng.random() < self.loss:
                    loop.call_later(0.5, receive, message)


class SimulatedRelay:
    """One node's end of the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.listening = asyncio.Event()
        self.listening.set()

    async def send(self, message: str) -> bool:
        self._bus.send(message)
        return True


def text_of(generation_id: UUID) -> str:
    """What the models say, whichever node asks."""
    rng = random.Random(generation_id.int)
    return "".join(f"{number}{rng.choice('aé世😀')} " for number in range(rng.randint(0, 25)))


class SimulatedGateway:
    """Models: one continues a prefix, one does not; both are slow, and break now and then."""

    def __init__(self, rng: random.Random, gate: Callable[[], Any]) -> None:
        self._rng = rng
        self._gate = gate
        self.breaks = 0.0

    def describe(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                name=name,
                protocol="scripted",
                context_window=1000,
                max_output_tokens=1000,
                continues_prefix=name == CONTINUES,
                reasoning=False,
                vision=False,
                tools=False,
            )
            for name in (CONTINUES, ONCE)
        ]

    async def stream(self, request: GatewayRequest, sink: Sink) -> AsyncGenerator[list[Event], None]:
        whole = text_of(UUID(request.user_id))
        # Who cannot go on begins anew, whatever was said before.
        rest = whole[len(request.prefix) :] if request.model == CONTINUES else whole
        await asyncio.sleep(self._rng.choice((0.0, 0.2, 2.0)))
        # Not drawn: a history that was found once must stay what it was.
        relays, begun = bool(UUID(request.user_id).int >> 3 & 1), False
        while rest:
            await self._gate()
            size = self._rng.randint(1, 8)
            batch: list[Event] = [TextDelta(piece) for piece in (rest[:1], rest[1:size]) if piece]
            if relays and begun and len(batch) == 1:
                sink.text(rest[:1])
            elif relays and begun:
                sink.events(batch)
            else:
                yield batch
            begun = True
            rest = rest[max(size, 1) :]
            await asyncio.sleep(self._rng.choice((0.0, 0.05, 0.3, 1.0)))
            if self._rng.random() < self.breaks:
                raise ModelInterrupted
        await self._gate()
        yield [Finished("stop")]


class SimulatedPrompts:
    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def build(self, generation: Generation, *, prefix: str) -> Chosen | None:
        if not await Generations.begin(self._handle, generation.id, generation.epoch, {}):
            return None
        request = GatewayRequest(model=generation.model, messages=(), prefix=prefix, user_id=str(generation.id))
        return Chosen(request, {})

    def tokens(self, model_name: str, text: str) -> int:
        return 1

    def cost(self, model_name: str, usage: object) -> None:
        return None


class SimulatedNode:
    """One process: the real core, wired as in `wiring.py`, on simulated surroundings."""

    def __init__(self, number: int, database: ModelDatabase, bus: Bus, rng: random.Random) -> None:
        self.number = number
        self.alive = True
        self.database = database
        self._bus = bus
        self._running = asyncio.Event()
        self._running.set()
        self.handle = Handle(database, self.gate)
        self.supervisor = Supervisor(f"node {number}")
        self.supervisor._tasks = InOrder()  # type: ignore[assignment]
        self.streams: InOrder[asyncio.Future[Any]] = InOrder()
        clock, store = LoopClock(), ModelStore(self.handle)
        database_port = cast("Database", self.handle)
        self.gateway = SimulatedGateway(rng, self.gate)
        gateway = cast("ModelGateway", self.gateway)
        self.wakeups = SharedWakeUps([SimulatedRelay(bus)])
        self.node = NodeService(
            database=database_port, gateway=gateway, wakeups=self.wakeups, settings=SETTINGS, name=str(number)
        )
        self.tails = Tails()
        self.open_streams = OpenStreams(clock, heartbeat_seconds=15, send_seconds=30, most_per_device=100)
        self.open_streams._streams = InOrder()  # type: ignore[assignment]
        self.writer = Writer(store, clock, node_id=self.node_id, round_seconds=SETTINGS.round)
        self.watchers = Watchers(wakeups=self.wakeups, clock=clock, node_id=self.node_id)
        self.writer.on_stored = self.watchers.stored
        self.followers = Followers(
            store=store,
            tails=self.tails,
            wakeups=self.wakeups,
            clock=clock,
            node_id=self.node_id,
            supervisor=self.supervisor,
            poll_seconds=SETTINGS.poll,
        )
        self.maker = AnswerMaker(
            gateway=gateway,
            prompts=cast("PromptBuilder", SimulatedPrompts(self.handle)),
            store=store,
            writer=self.writer,
            tails=self.tails,
            wakeups=self.wakeups,
            limits=LimitSettings(),
            supervisor=self.supervisor,
        )
        self.node.use(self.maker, self.followers)
        self.generations = GenerationService(
            database=database_port,
            store=store,
            tails=self.tails,
            followers=self.followers,
            maker=self.maker,
            wakeups=self.wakeups,
            clock=clock,
            ticket_seconds=300,
        )

    def node_id(self) -> UUID:
        return self.node.id

    @property
    def is_ready(self) -> bool:
        """A process that could not register yet is not ready: nobody sends to it."""
        return self.node.id in self.database.nodes

    def start(self) -> None:
        self._bus.receivers[self.number] = self.wakeups.receive
        for part in (self.followers, self.watchers, self.node):
            part.start()
        self.supervisor.keep(self.writer.run, name="writer", pause=0.05)
        self.supervisor.keep(self.watchers.run, name="hints")
        self.supervisor.keep(self.node.run, name="node")
        self.supervisor.keep(self._care, name="care")

    async def _care(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.open_streams.tick()
            self.tails.sweep(asyncio.get_running_loop().time(), keep=5)
            self.watchers.sweep()

    async def gate(self) -> None:
        """A node that hangs gets no further; one that is dead, never."""
        await self._running.wait()

    @property
    def stands_still(self) -> bool:
        return not self._running.is_set()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        if self.alive:
            self._running.set()

    async def drain(self, seconds: float) -> None:
        """As `Backend.drain`: readers go elsewhere, answers go on for so long, the rest is handed over."""
        self.node.draining = True
        self.open_streams.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.alive and len(self.maker) and loop.time() < deadline:  # noqa: ASYNC110 - as the product does it
            await asyncio.sleep(0.05)
        handing_over = asyncio.ensure_future(self.node.hand_over())
        # With the streams, because a process that crashes does not go on with this either.
        self.streams.add(handing_over)
        await asyncio.wait([handing_over], timeout=20)
        self.streams.discard(handing_over)
        if not handing_over.cancel() and not handing_over.cancelled():
            with contextlib.suppress(DatabaseUnavailable):
                handing_over.result()

    async def crash(self) -> None:
        """kill -9: its connections break, nothing of it runs any more."""
        self.alive = False
        self._running.clear()
        self._bus.receivers.pop(self.number, None)
        for task in tuple(self.streams):
            task.cancel()
        await self.supervisor.close()


class Reader:
    """Reads one answer to its end, over nodes and connections that come and go."""

    def __init__(self, generation_id: UUID, outcome: Outcome, rng: random.Random, cut_chance: float) -> None:
        self.generation_id = generation_id
        self.outcome = outcome
        # By a 204, which a native EventSource takes for the end.
        self.told_to_go = False
        # When something last came, be it a heartbeat.
        self.heard_at = 0.0
        self.follower = Follower(str(generation_id), outcome)
        self.cut_chance = cut_chance
        # How long it takes what it is sent: nobody else may wait for that.
        self.seconds_a_write = 0.0
        # Told of each event in the moment in which it is shown.
        self.on_shown: Callable[[UUID, int, str], None] = lambda generation_id, seq, payload: None
        self._rng = rng

    async def read_once(self, node: SimulatedNode) -> bool:
        """One connection; False when it was refused or there was nothing left."""
        self.heard_at = asyncio.get_running_loop().time()
        cursor = Cursor.parse(self.follower.last_id) if self.follower.last_id else None
        try:
            reading = await node.generations.read(self.generation_id, self.generation_id, cursor)
        except (Unavailable, DatabaseUnavailable, NotFound):
            return False
        if reading.nothing_left:
            self.told_to_go = True
            return False
        decoder = BlockDecoder()
        left = self._rng.randint(0, 1500) if self._rng.random() < self.cut_chance else 1 << 30

        async def send(data: bytes, more: bool) -> None:
            await node.gate()
            await asyncio.sleep(self.seconds_a_write)
            take(data)

        def take(data: bytes) -> None:
            nonlocal left
            self.heard_at = asyncio.get_running_loop().time()
            for block in decoder.feed(data[:left]):
                known = len(self.follower.payloads)
                self.follower.take(block, asyncio.get_running_loop().time())
                if len(self.follower.payloads) > known:
                    self.on_shown(self.generation_id, self.follower.seq, block.data)
            left -= len(data)
            if left <= 0:
                left = 0
                stream.leave()

        stream = Stream(reading.source, seq=reading.seq, wire=Format.SSE, send=send, session_id=None, clock=LoopClock())
        if self.generation_id.int >> 4 & 1:
            stream.outlet = Outlet(node, take)
        node.open_streams.add(stream)
        try:
            await stream.run(opening=Format.SSE.opening())
        finally:
            node.open_streams.remove(stream)
        return True


class Outlet:
    """The short way of every other reader: what a round has stored is written at once, unless the node stands still."""

    def __init__(self, node: SimulatedNode, take: Callable[[bytes], None]) -> None:
        self._node = node
        self.push = take

    @property
    def full(self) -> bool:
        return self._node.stands_still
