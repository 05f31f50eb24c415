"""How long it takes until the product answers, and how long its import takes."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.client.plan import Outcome
from benchmarks.processes import BenchmarkError
from benchmarks.records import Sample
from benchmarks.subjects import serve_ours

ROUNDS = 3


async def _import_seconds() -> float:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import llmchatbot.main")
    if await process.wait():
        raise BenchmarkError("import llmchatbot.main fails")
    with_import = time.monotonic() - began
    began = time.monotonic()
    await (await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")).wait()
    return max(0.0, with_import - (time.monotonic() - began))


def _sample(scene: str, round_: int, seconds: float) -> Sample:
    return Sample(
        scene=scene,
        subject="ours",
        round=round_,
        seconds=seconds,
        units=1,
        extra={"seconds": seconds},
        outcome=Outcome(),
    )


async def measure() -> list[Sample]:
    """From the start of the process to `/health` 200: first start, later ones; then the bare import."""
    samples = []
    with tempfile.TemporaryDirectory(prefix="llmchatbot-bench-", ignore_cleanup_errors=True) as scratch:
        data_dir = Path(scratch) / "data"
        for round_ in range(ROUNDS + 1):
            async with serve_ours("http://127.0.0.1:9", data_dir=data_dir) as running:
                name = "start-first" if round_ == 0 else "start-again"
                samples.append(_sample(name, round_, running.ready_seconds))
    samples += [_sample("import", round_, await _import_seconds()) for round_ in range(ROUNDS)]
    return samples
