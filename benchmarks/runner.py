"""The order of things: contenders one after the other, rotating, so that no one always has the quiet moment."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import lists, startup, toolchain
from benchmarks.measure import measure_streams
from benchmarks.processes import BenchmarkError
from benchmarks.progress import Progress
from benchmarks.records import Report, Sample
from benchmarks.scenes import ListScene, StreamScene
from benchmarks.subjects import RELAYS, Subject

OVERHEAD = 4.0
"""Seconds that starting and stopping a contender takes, for the progress bar."""


class Step(msgspec.Struct, frozen=True):
    """One measurement to come."""

    scene: StreamScene
    subject: Subject
    round: int

    @property
    def weight(self) -> float:
        return self.scene.ramp + self.scene.settle + self.scene.window + OVERHEAD


def steps_of(scenes: Sequence[StreamScene], only: Sequence[str] = ()) -> list[Step]:
    """All measurements, contenders rotated by one place each round."""
    steps = []
    for scene in scenes:
        names = [name for name in scene.subjects if not only or name in only]
        for round_ in range(scene.rounds):
            turn = round_ % max(1, len(names))
            steps += [Step(scene, RELAYS[name], round_) for name in (*names[turn:], *names[:turn])]
    return steps


def machine() -> dict[str, str]:
    """What it ran on, as far as it explains figures."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"cores": str(os.cpu_count()), "processor": model, "kernel": platform.release()}


async def run(
    form: str, scenes: Sequence[StreamScene], list_scenes: Sequence[ListScene], *, only: Sequence[str] = ()
) -> Report:
    """Carry out all of it. A contender that cannot run is noted and left out; ours failing is an error of the run."""
    steps = steps_of(scenes, only)
    progress = Progress(sum(step.weight for step in steps) + sum(lists.weight(scene) for scene in list_scenes))
    began = time.monotonic()
    report = Report(
        form=form,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        machine=machine(),
        versions={},
        samples=[],
    )
    progress.show("preparing the peers")
    await asyncio.to_thread(toolchain.peer_python)
    report.versions = toolchain.versions()
    missing: set[str] = set()
    for step in steps:
        progress.show(f"{step.scene.title}: {step.subject.label}, round {step.round + 1} of {step.scene.rounds}")
        if step.subject.name not in missing:
            sample = await _attempt(step, report, missing)
            if sample is not None:
                report.samples.append(sample)
        progress.advance(step.weight)
    for scene in list_scenes:
        report.samples += await lists.measure(scene, progress, report.notes, only=only)
    if not only or "ours" in only:
        progress.show("start-up and import")
        report.samples += await startup.measure()
    report.seconds = round(time.monotonic() - began, 1)
    progress.close()
    return report


async def _attempt(step: Step, report: Report, missing: set[str]) -> Sample | None:
    try:
        return await measure_streams(step.scene, step.subject, step.round)
    except BenchmarkError as error:
        note = f"{step.subject.label}, {step.scene.title}: {error}"
        report.notes.append(note)
        if str(error).startswith("no Go"):
            missing.add(step.subject.name)
            report.notes.append(f"to have the Go peers: {toolchain.GO_HINT}")
        return None
