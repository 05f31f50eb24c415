"""A plan on nodes of its own, where those that all plans share are too few or set otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from llmchatbot.drill import invariants, logs
from llmchatbot.drill.arena import Arena
from llmchatbot.drill.cluster import Cluster


@asynccontextmanager
async def apart(arena: Arena, *, nodes: int, environment: Mapping[str, str] | None = None) -> AsyncIterator[Arena]:
    """The arena to use meanwhile; what was done in it is judged at the end as every plan is."""
    shared = arena.cluster
    async with Cluster(nodes=nodes, pace=shared.pace, environment=environment, bin_dir=shared.bin_dir) as cluster:
        inner = arena.on(cluster)
        yield inner
        await invariants.check(cluster.database, inner)
        for node in cluster.nodes:
            logs.check(arena.outcome, node.name, node.log())
