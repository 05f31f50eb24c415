"""`llmchatbot drill`: chooses the plans, runs them, and ends what it started also on Ctrl-C and SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from llmchatbot import config
from llmchatbot.drill.plans import PLANS, Plan
from llmchatbot.drill.runner import Options, run_all
from llmchatbot.errors import StartupError


def run(arguments: argparse.Namespace) -> int:
    """0 when every promise was kept, 1 when not. Raises StartupError, KeyboardInterrupt."""
    if arguments.list:
        width = max(len(plan.name) for plan in PLANS)
        for plan in PLANS:
            where = "anywhere" if plan.client_side else "own nodes"
            print(f"{plan.name:<{width}}  {where:<9}  {plan.summary}")  # noqa: T201 - a person at a terminal
        return 0
    plans = _chosen(arguments.plan, against=bool(arguments.against))
    options = Options(
        seed=arguments.seed,
        full=arguments.size == "full",
        count=arguments.count,
        url=arguments.against,
        model=arguments.model,
        bin_dir=config.load().database.bin_dir,
    )
    # That a killed database died is the plan, not news.
    logging.getLogger("llmchatbot").addHandler(logging.NullHandler())
    return asyncio.run(_run(plans, options))


def _chosen(names: list[str] | None, *, against: bool) -> list[Plan]:
    """Raises StartupError for a name that is no plan's."""
    known = {plan.name: plan for plan in PLANS}
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise StartupError(f"There is no plan '{unknown[0]}'. Known are: {', '.join(known)}.")
    plans = [known[name] for name in names] if names else list(PLANS)
    return [plan for plan in plans if plan.client_side] if against else plans


async def _run(plans: list[Plan], options: Options) -> int:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await run_all(plans, options)
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error
