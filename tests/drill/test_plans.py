"""Every plan of the drill, short, on real processes: the promises of docs/drill.md."""

from __future__ import annotations

import asyncio

import pytest

from llmchatbot.drill import report
from llmchatbot.drill.cluster import Cluster
from llmchatbot.drill.plans import PLANS, Plan
from llmchatbot.drill.runner import Options, run_plan

# How much of each: enough to meet the rule, little enough for every change.
_SHORT = {
    "cuts": 500,
    "readers-leave": 40,
    "kill-node": 2,
    "zombie": 1,
    "clock": 2,
    "stop-anywhere": 8,
    "double-sends": 100,
    "database-restart": 2,
    "database-kill": 2,
    "database-hang": 1,
    "redis-flaky": 2,
}
_LONG = {"cuts": 2_000, "kill-node": 20, "zombie": 5, "clock": 10, "double-sends": 1_000, "stop-anywhere": 50}


def judge(plan: Plan, options: Options, cluster: Cluster, loop: asyncio.Runner) -> None:
    outcome = loop.run(run_plan(plan, options, cluster))
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.failed, "\n" + report.table([outcome])
    assert outcome.counts["rules checked"] or plan.name == "redis-flaky"


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_plan_keeps_its_promises(plan: Plan, cluster: Cluster, drill_loop: asyncio.Runner) -> None:
    judge(plan, Options(count=_SHORT.get(plan.name)), cluster, drill_loop)


@pytest.mark.nightly
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_plan_keeps_its_promises_for_long(plan: Plan, cluster: Cluster, drill_loop: asyncio.Runner) -> None:
    judge(plan, Options(seed="nightly", full=False, count=_LONG.get(plan.name)), cluster, drill_loop)
