"""Closed loops of answers: so many streams at any time, each followed by the next; further readers; a cut."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from benchmarks.client.plan import Outcome, Plan, Target
from benchmarks.client.stream import EventStream, Meter, post, request_head
from benchmarks.quantiles import spread_of
from benchmarks.speech import Stamps


class Load:
    """Streams of one plan. Every connection attempt is a task that is kept until it ends."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.meter = Meter(plan, Stamps(Path(plan.stamps)))
        self.open: set[EventStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def connect(self, stream: EventStream, *, after: float = 0.0) -> None:
        task = self._loop.create_task(self._connect(stream, after))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, stream: EventStream, after: float) -> None:
        if after > 0:
            await asyncio.sleep(after)
        if time.monotonic() >= self.plan.window_to:
            return
        self.meter.opened += 1
        self.open.add(stream)
        try:
            await self._loop.create_connection(lambda: stream, "127.0.0.1", self.plan.port)
        except OSError as error:
            self.meter.fail(type(error).__name__)
            self.open.discard(stream)

    def answer(self, slot: int, tokens: int, *, after: float = 0.0) -> None:
        """Ask for an answer of `tokens` tokens on the slot's chat, `after` seconds from now."""
        plan = self.plan
        request = post(plan.targets[slot], plan.rate, tokens)
        on_start = self._add_readers if plan.readers else None
        self.connect(EventStream(self.meter, slot, request, tokens, self._ended, on_start=on_start), after=after)

    def _add_readers(self, first: EventStream) -> None:
        target = self.plan.targets[first.slot]
        path = f"/api/v1/generations/{first.generation}/stream"
        request = request_head("GET", Target(path, target.authorization))
        for _ in range(self.plan.readers):
            self.connect(EventStream(self.meter, first.slot, request, first.expected, self.open.discard))

    def _ended(self, stream: EventStream) -> None:
        self.open.discard(stream)
        if not stream.cut and time.monotonic() < self.plan.window_to:
            self.answer(stream.slot, self.plan.tokens, after=0.0 if stream.received else 0.2)

    async def ramp(self) -> None:
        """Open all slots evenly over the ramp."""
        plan, count = self.plan, len(self.plan.targets)
        for slot in range(count):
            due = plan.start + plan.ramp * slot / count
            if (wait := due - time.monotonic()) > 0.002:
                await asyncio.sleep(wait)
            self.answer(slot, max(5, plan.tokens * (slot + 1) // count) if plan.staggered else plan.tokens)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in list(self.open):
            stream.abort()
        await asyncio.sleep(0.05)

    def outcome(self) -> Outcome:
        meter = self.meter
        served = [count for count in meter.per_slot if count]
        starved = len(meter.per_slot) - len(served)
        return Outcome(
            tokens=len(meter.delays),
            answers=meter.ended,
            opened=meter.opened,
            complete=meter.complete,
            incomplete=meter.incomplete,
            errors=meter.errors | ({"starved streams": starved} if starved else {}),
            delay=spread_of(meter.delays, scale=0.001),
            first_token=spread_of(meter.first_tokens, scale=1000),
            fairness=round(max(served) / min(served), 3) if served else 0.0,
        )


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def run_answers(plan: Plan) -> Outcome:
    """Keep `len(targets)` answers running until the window ends."""
    load = Load(plan)
    await load.ramp()
    await _until(plan.window_to)
    await load.close()
    return load.outcome()


class Storm(Load):
    """All streams cut at once; each resumes from its cursor. Nothing may be lost or doubled."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.recoveries: list[float] = []
        self.finished = 0
        self.all_finished = asyncio.Event()

    def answer(self, slot: int, tokens: int, *, after: float = 0.0) -> None:
        plan = self.plan
        request = post(plan.targets[slot], plan.rate, plan.tokens)
        stream = EventStream(self.meter, slot, request, plan.tokens, self.open.discard)
        stream.keep_event_ids = True
        self.connect(stream, after=after)

    def cut(self) -> None:
        """Abort every connection, then ask for the rest of each answer."""
        broken = [stream for stream in self.open if stream.event_id]
        moment = time.monotonic()
        for stream in broken:
            stream.abort()
        for stream in broken:
            self.connect(self._resumption(stream, moment))

    def _resumption(self, broken: EventStream, moment: float) -> EventStream:
        authorization = self.plan.targets[broken.slot].authorization
        target = Target(f"/api/v1/generations/{broken.generation}/stream", authorization)
        head = request_head("GET", target)[:-2] + f"Last-Event-ID: {broken.event_id}\r\n\r\n".encode()
        expected = broken.expected - broken.received

        def ended(stream: EventStream) -> None:
            self.open.discard(stream)
            if stream.first_at:
                self.recoveries.append(stream.first_at - moment)
            self.finished += 1
            if self.finished == len(self.plan.targets):
                self.all_finished.set()

        stream = EventStream(self.meter, broken.slot, head, expected, ended)
        stream.whole = broken.expected
        if broken.number >= 0:
            stream.follow(broken.number, broken.received)
        return stream


async def run_storm(plan: Plan) -> Outcome:
    """Open all, cut all at `cut_at`, wait for the ends of the resumed answers."""
    load = Storm(plan)
    await load.ramp()
    await _until(plan.cut_at)
    load.cut()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(load.all_finished.wait(), plan.deadline - time.monotonic())
    await load.close()
    return msgspec.structs.replace(load.outcome(), recovery=spread_of(load.recoveries, scale=1000))


async def run_idle(plan: Plan) -> Outcome:
    """Open one silent answer per target with `readers` further readers, hold all, count who is still there."""
    silent = msgspec.structs.replace(plan, rate=0, tokens=1)
    load = Load(silent)
    await load.ramp()
    await _until(plan.window_to)
    alive = sum(1 for stream in load.open if stream.generation or stream.headed)
    await load.close()
    return msgspec.structs.replace(load.outcome(), tokens=0, complete=alive, incomplete=0, errors=load.meter.errors)
