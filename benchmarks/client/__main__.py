"""`python -m benchmarks.client < plan.json > outcome.json`: one load, bounded in count and time, loopback only."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time

import msgspec
import uvloop

from benchmarks.client.answers import run_answers, run_idle, run_storm
from benchmarks.client.plan import Outcome, Plan
from benchmarks.client.requests import run_requests

_MODES = {
    "answers": run_answers,
    "readers": run_answers,
    "storm": run_storm,
    "idle": run_idle,
    "requests": run_requests,
}


def raise_file_limit(wanted: int = 65536) -> int:
    """Open files this process may have from now on: `wanted`, or what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((max(wanted, soft), max(wanted, hard)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        except (ValueError, OSError):
            continue
        return limit[0]
    return soft


async def run(plan: Plan) -> Outcome:
    """Carry out `plan`, but never longer than to its deadline and two seconds."""
    async with asyncio.timeout(max(1.0, plan.deadline - time.monotonic()) + 2):
        return await _MODES[plan.mode](plan)


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    raise_file_limit()
    gc.freeze()
    outcome = uvloop.run(run(plan))
    used = resource.getrusage(resource.RUSAGE_SELF)
    outcome.cpu = round(used.ru_utime + used.ru_stime, 2)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
