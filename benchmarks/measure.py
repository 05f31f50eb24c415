"""One measurement: start upstream and subject, run the load, read the accounts before and after the window."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import accounts
from benchmarks.accounting import Cost, cost_of, machine_cpu
from benchmarks.client.plan import Outcome, Plan, Target
from benchmarks.confinement import confine
from benchmarks.processes import run_client, upstream
from benchmarks.records import Sample
from benchmarks.scenes import StreamScene
from benchmarks.subjects import Running, Subject

LEAD = 0.8
"""Seconds between writing the plan and its first request: the load process has to start."""


async def _at(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def per_unit(seconds: float, units: int) -> float:
    """Microseconds per unit; 0 of nothing."""
    return round(seconds / units * 1e6, 2) if units else 0.0


def sample_of(
    *, scene: str, subject: str, round_: int, seconds: float, units: int, before: Cost, after: Cost, outcome: Outcome
) -> Sample:
    """What the two accounts and the outcome say together."""
    return Sample(
        scene=scene,
        subject=subject,
        round=round_,
        seconds=seconds,
        units=units,
        cpu_us=per_unit(after.cpu - before.cpu, units),
        database_us=per_unit(after.database_cpu - before.database_cpu, units),
        cores=round((after.cpu - before.cpu) / seconds, 3),
        rss=after.rss,
        pss=after.pss,
        database_pss=after.database_pss,
        outcome=outcome,
    )


def stream_plan(scene: StreamScene, running: Running, stamps: Path) -> Plan:
    start = time.monotonic() + LEAD
    window_from = start + scene.ramp + scene.settle
    return Plan(
        mode=scene.mode,
        port=running.port,
        stamps=str(stamps),
        targets=running.targets,
        rate=scene.rate,
        tokens=scene.tokens,
        staggered=scene.staggered,
        start=start,
        ramp=scene.ramp,
        window_from=window_from,
        window_to=window_from + scene.window,
        deadline=window_from + scene.window + 2,
        readers=scene.readers,
        cut_at=start + scene.ramp + 3.0,
    )


async def _login_plan(plan: Plan, connections: int) -> Plan:
    async with accounts.session_to(plan.port) as session:
        email, _ = await accounts.register(session)
    return msgspec.structs.replace(
        plan,
        mode="requests",
        targets=[Target("/api/v1/auth/login")],
        connections=connections,
        body=msgspec.json.encode({"email": email, "password": accounts.PASSWORD}).decode(),
    )


async def _loads(scene: StreamScene, running: Running, stamps: Path) -> tuple[Plan, Sequence[Plan]]:
    burst = None
    if scene.logins:
        burst = await _login_plan(stream_plan(scene, running, stamps), scene.logins)
    plan = stream_plan(scene, running, stamps)
    if burst is None:
        return plan, [plan]
    times = {name: getattr(plan, name) for name in ("start", "window_from", "window_to", "deadline")}
    times["start"] = plan.window_from
    return plan, [plan, msgspec.structs.replace(burst, **times)]


class Quiet:
    """How busy everybody else kept the machine meanwhile: the first thing to know of a figure."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._foreign = self._now()

    @staticmethod
    def _now() -> float:
        own = cost_of(os.getpid())
        return machine_cpu() - own.cpu - own.database_cpu

    def foreign_cores(self) -> float:
        """Cores in use by processes that are not of this benchmark, since this object was made."""
        return round(max(0.0, (self._now() - self._foreign) / (time.monotonic() - self._began)), 2)


async def measure_streams(scene: StreamScene, subject: Subject, round_: int) -> Sample:
    """Raises BenchmarkError when the subject or the load does not come up."""
    async with upstream() as (url, stamps), subject.start(url, scene.streams) as running:
        baseline = cost_of(running.pid, memory=True) if running.pid else Cost()
        if scene.share:
            confine(running.pid, scene.share)
        plan, plans = await _loads(scene, running, stamps)
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(run_client(each)) for each in plans]
            await _at(plan.window_from)
            before = cost_of(running.pid) if running.pid else Cost()
            quiet = Quiet()
            await _at(plan.window_to - 0.3)
            memory = cost_of(running.pid, memory=True) if running.pid else Cost()
            await _at(plan.window_to)
            after = cost_of(running.pid) if running.pid else Cost()
            foreign = quiet.foreign_cores()
        outcome = clients[0].result()
    after = msgspec.structs.replace(after, rss=memory.rss, pss=memory.pss, database_pss=memory.database_pss)
    units = outcome.tokens or outcome.complete
    sample = sample_of(
        scene=scene.name,
        subject=subject.name,
        round_=round_,
        seconds=scene.window,
        units=units,
        before=before,
        after=after,
        outcome=outcome,
    )
    sample.expected = round(scene.expected_rate * scene.window) if scene.mode in {"answers", "readers"} else 0
    sample.extra = {
        "ready_seconds": round(running.ready_seconds, 3),
        "idle_pss": baseline.pss,
        "foreign_cores": foreign,
        "cpu_ms_per_answer": per_unit((after.cpu - before.cpu) / 1000, outcome.answers),
    }
    if len(clients) > 1:
        burst = clients[1].result()
        sample.extra |= {"logins_per_second": burst.answers / scene.window, "login_p99_ms": burst.latency.p99}
    return sample
