"""`llmchatbot drill --against URL`: what needs nothing but an address, on a deployment and within its limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nodes import Node, database_environment

from llmchatbot.database.address import Address
from llmchatbot.drill.plans import PLANS

# Less than every installation has.
USUAL = {"REGISTER_PER_HOUR": "20", "MESSAGES_PER_MINUTE": "30", "REQUESTS_PER_MINUTE": "600"}


@pytest.mark.parametrize("model", ["scripted", ""])
async def test_deployment_with_the_usual_limits_is_drilled(tmp_path: Path, database: Address, model: str) -> None:
    node = Node(tmp_path, {**database_environment(database), **USUAL})
    try:
        await node.start()
        done = subprocess.run(
            [sys.executable, "-m", "llmchatbot", "drill", "--against", node.base, "--seed", "7", "--model", model],
            env=node.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        node.end()
    assert done.returncode == 0, done.stdout + done.stderr
    for plan in PLANS:
        assert (f"ok    {plan.name} " in done.stdout) == plan.client_side
    assert "Every promise was kept." in done.stdout
