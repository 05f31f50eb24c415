"""Runs plans one after the other and judges each: its own findings, the invariants, and the logs of the nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec

from llmchatbot.drill import invariants, logs, report
from llmchatbot.drill.arena import Arena
from llmchatbot.drill.cluster import SHORT_PACE, Cluster, Pace
from llmchatbot.drill.outcome import Outcome
from llmchatbot.drill.plans import Plan
from llmchatbot.errors import StartupError

NODES = 3


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    seed: str = "1"
    full: bool = False
    count: int | None = None
    url: str = ""
    model: str = ""
    bin_dir: str = ""

    @property
    def pace(self) -> Pace:
        return Pace() if self.full else SHORT_PACE


async def run_plan(plan: Plan, options: Options, cluster: Cluster | None) -> Outcome:
    """One plan, judged. What goes wrong in the plan itself is a violation too: it did not expect it."""
    outcome = Outcome(plan.name)
    progress = report.Progress(sys.stderr, plan.name)
    arena = Arena(
        outcome=outcome,
        seed=options.seed,
        full=options.full,
        count=options.count,
        cluster=cluster,
        url=options.url,
        model=options.model,
        on_progress=progress,
    )
    outcome.skipped = plan.why_not(arena)
    if outcome.skipped:
        return outcome
    before = {node.name: len(node.log()) for node in cluster.nodes} if cluster is not None else {}
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await plan.run(arena)
        if cluster is not None:
            await invariants.check(cluster.database, arena)
    except* (StartupError, OSError, TimeoutError) as group:
        for error in _leaves(group):
            outcome.violate(f"the plan broke off: {type(error).__name__}: {str(error)[:2000]}")
    finally:
        outcome.seconds = loop.time() - began
        progress.clear()
    if cluster is not None:
        for node in cluster.nodes:
            logs.check(outcome, node.name, node.log()[before[node.name] :])
            if not node.running:
                await node.start()
    outcome.judge_times()
    return outcome


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def run_all(plans: Sequence[Plan], options: Options) -> int:
    """Everything, printed. The exit code: 0 when every promise was kept."""
    outcomes: list[Outcome] = []
    if options.url:
        outcomes = [await _told(plan, options, None) for plan in plans]
    else:
        _say(f"Starting PostgreSQL and {NODES} nodes (seed {options.seed}) …")
        async with Cluster(nodes=NODES, pace=options.pace, bin_dir=options.bin_dir, say=_say) as cluster:
            outcomes = [await _told(plan, options, cluster) for plan in plans]
    _say("\n" + report.table(outcomes))
    failed = [outcome.plan for outcome in outcomes if outcome.failed]
    if failed:
        _say(f"\nNot kept: {', '.join(failed)}. Repeat with --seed {options.seed}.")
    else:
        _say("\nEvery promise was kept.")
    return int(bool(failed))


async def _told(plan: Plan, options: Options, cluster: Cluster | None) -> Outcome:
    outcome = await run_plan(plan, options, cluster)
    _say(report.line(outcome))
    return outcome


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
