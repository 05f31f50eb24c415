"""Fault 11: health tells the truth. The process lives as long as it answers; it is ready only with its database."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nodes import Node, Person, free_port


@pytest.fixture
def own_database_node(tmp_path: Path) -> Iterator[Node]:
    """With the embedded PostgreSQL in a folder of its own, and a model's service that is not there."""
    node = Node(
        tmp_path,
        {
            "LLM_SERVICE_URL": f"http://127.0.0.1:{free_port()}",
            "LLM_SERVICE_PROTOCOL": "ndjson",
            # So that the test need not be patient.
            "DB_ACQUIRE_TIMEOUT": "300ms",
            "DB_STATEMENT_TIMEOUT": "500ms",
        },
    )
    yield node
    node.end()


def postmaster(node: Node) -> int:
    return int((Path(node.environment["DATA_DIR"]) / "postgres" / "postmaster.pid").read_text().split()[0])


async def ready(session: aiohttp.ClientSession, node: Node) -> tuple[int, dict[str, Any]]:
    async with session.get(f"{node.base}/health/ready") as response:
        assert response.headers["Cache-Control"] == "no-store"
        return response.status, await response.json()


async def until(session: aiohttp.ClientSession, node: Node, status: int, seconds: float) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        while True:
            found, body = await ready(session, node)
            if found == status:
                return body
            await asyncio.sleep(0.02)


async def test_fault_11_health_tells_the_truth_when_the_database_dies(own_database_node: Node) -> None:
    node = await own_database_node.start()
    async with Person(node) as person, aiohttp.ClientSession() as session:
        status, body = await ready(session, node)
        assert (status, body["ready"], body["parts"]["database"]) == (200, True, "ok")
        # A model that is away is told, and is no reason to be sent no requests: chats can be read.
        assert body["parts"]["model"] == "degraded"

        # Stopped, not killed: the product brings back a dead one of its own within a second.
        server = postmaster(node)
        for pid in family_of(server):
            os.kill(pid, signal.SIGSTOP)
        try:
            body = await until(session, node, 503, 15)
            assert body["ready"] is False
            assert body["parts"]["database"] == "failed"
            async with session.get(f"{node.base}/health") as response:
                assert (response.status, (await response.json())["status"]) == (200, "healthy")
            status, problem = await person.request("GET", "/api/v1/chats")
            assert (status, problem["code"]) == (503, "database_unavailable")
        finally:
            for pid in reversed(family_of(server)):
                os.kill(pid, signal.SIGCONT)
        await until(session, node, 200, 15)
        assert (await person.request("GET", "/api/v1/chats"))[0] == 200

        dead = postmaster(node)
        os.kill(dead, signal.SIGKILL)
        answers: list[int] = []
        async with asyncio.timeout(30):
            # A look right after the blow may still find everything well.
            while answers[-5:] != [200] * 5 or postmaster(node) == dead:
                answers.append((await person.request("GET", "/api/v1/chats"))[0])
                await asyncio.sleep(0.02)
        assert {*answers} <= {200, 503}
        assert (await ready(session, node))[0] == 200
    assert "Traceback" not in node.log()


def family_of(parent: int) -> list[int]:
    """A process and its children, from /proc."""
    children = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and parent_of(entry) == parent and int(entry.name) != parent
    ]
    return [parent, *children]


def parent_of(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


async def test_liveness_has_the_shape_of_the_first_backend(node: Node) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{node.base}/health") as response:
        body = await response.json()
    assert (response.status, body["status"], body["service"]) == (200, "healthy", "llmchatbot-backend")
    assert body["version"]
