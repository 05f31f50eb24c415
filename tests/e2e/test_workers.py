"""Several processes on one port: they come and go as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from nodes import Node, database_environment

from llmchatbot.database.address import Address

StartNode = Callable[..., Awaitable[Node]]


async def children_of(pid: int) -> list[int]:
    pgrep = await asyncio.create_subprocess_exec("pgrep", "-P", str(pid), stdout=asyncio.subprocess.PIPE)
    out, _ = await pgrep.communicate()
    return [int(line) for line in out.split()]


async def test_workers_end_with_a_parent_that_was_killed_and_the_next_start_works(start_node: StartNode) -> None:
    """They held the port, and a start after `kill -9` found it taken."""
    node = await start_node(SERVER_WORKERS="3")
    assert node.process is not None
    deadline = asyncio.get_running_loop().time() + 10
    while len(workers := await children_of(node.process.pid)) < 3:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    node.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert asyncio.get_running_loop().time() < deadline, "a worker without a parent goes on"
        await asyncio.sleep(0.05)
    await start_node(port=node.port, SERVER_WORKERS="3")


async def test_what_keeps_workers_from_starting_is_said_once_and_ends_the_program(
    tmp_path: Path, database: Address
) -> None:
    """Each of them said it each second for ever, under a sentence that all was ready."""
    nobody = msgspec.structs.replace(database, user="nobody of this name")
    node = Node(tmp_path, {**database_environment(nobody), "SERVER_WORKERS": "3"})
    node.spawn()
    assert node.process is not None
    assert await asyncio.to_thread(node.process.wait, 30) == 1
    assert node.log().count("llmchatbot cannot start") == 1
    assert "nobody of this name" in node.log()
    assert "is ready" not in node.log()
