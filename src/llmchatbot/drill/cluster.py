"""What a drill starts for itself: a PostgreSQL of its own, several nodes on it, an upstream that it can look into."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import msgspec

from llmchatbot.config import DatabaseSettings
from llmchatbot.database.address import Address
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.database.pool import Database, open_pool
from llmchatbot.drill.processes import NodeProcess
from llmchatbot.llm.script import Script
from llmchatbot.llm.scripted_server import ScriptedServer

# `scripted` continues any prefix and `plain` none, both inside the nodes; `upstream` is asked over a real connection.
_MODELS = """
default = "scripted"

[models.scripted]
protocol = "scripted"
context_window = 1000000
max_output_tokens = 1000000
capabilities = ["prefix"]

[models.plain]
protocol = "scripted"
context_window = 1000000
max_output_tokens = 1000000

[models.upstream]
protocol = "openai"
url = "{url}/v1"
upstream_name = "scripted"
context_window = 1000000
max_output_tokens = 1000000
capabilities = ["prefix"]
"""

# Generous, because a drill is one person with many hands.
_LIMITS = {
    "MAX_ACTIVE_GENERATIONS": "100",
    "MAX_STREAMS": "100000",
    "MESSAGES_PER_MINUTE": "1000000",
    "REQUESTS_PER_MINUTE": "10000000",
    "REGISTER_PER_HOUR": "1000000",
}
_CONNECTIONS_PER_NODE = 12


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The times that decide how long a drill takes, in seconds. The defaults are those of the product."""

    lease: float = 10.0
    renewal: float = 3.0
    drain: float = 30.0
    send_timeout: float = 30.0

    @property
    def takeover(self) -> float:
        """From the death of a node to the next event elsewhere: 12 s at a lease of 10 s."""
        return self.lease + 2.0

    def environment(self) -> dict[str, str]:
        return {
            "LEASE": f"{self.lease:g}s",
            "LEASE_RENEWAL": f"{self.renewal:g}s",
            "SERVER_DRAIN_TIMEOUT": f"{self.drain:g}s",
            "STREAM_SEND_TIMEOUT": f"{self.send_timeout:g}s",
        }


# A tick of a node is a second long, so a lease must span a few of them.
SHORT_PACE = Pace(lease=4.0, renewal=1.0, drain=2.0, send_timeout=3.0)


class Cluster:
    """`async with Cluster(…) as cluster:` — all of it is gone at the end, whatever state it is in."""

    def __init__(
        self,
        *,
        nodes: int,
        pace: Pace,
        environment: Mapping[str, str] | None = None,
        bin_dir: str = "",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.pace = pace
        self.nodes: list[NodeProcess] = []
        self.upstream = ScriptedServer(Script(rate=50))
        self._count = nodes
        self._extra = dict(environment or {})
        self.bin_dir = bin_dir
        self._say = say
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="llmchatbot-drill-", ignore_cleanup_errors=True))
            )
            await stack.enter_async_context(self.upstream)
            self.postgres = EmbeddedPostgres(
                self.folder / "database",
                bin_dir=self.bin_dir,
                max_connections=self._count * (_CONNECTIONS_PER_NODE + 4) + 20,
                progress=self._say,
            )
            self.address = await self.postgres.start()
            stack.push_async_callback(self.postgres.stop)
            stack.callback(self.end_nodes)
            environment = self._environment()
            self.nodes += [NodeProcess(f"node{number}", self.folder, environment) for number in range(self._count)]
            await self.nodes[0].start()  # it migrates
            await asyncio.gather(*(node.start() for node in self.nodes[1:]))
            self.database = await self._open_database(self.address)
            stack.push_async_callback(self.database.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def end_nodes(self) -> None:
        for node in self.nodes:
            node.end()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def _environment(self) -> dict[str, str]:
        models = self.folder / "models.toml"
        models.write_text(_MODELS.format(url=self.upstream.url), encoding="utf-8")
        return {
            "DB_HOST": self.address.host,
            "DB_PORT": str(self.address.port),
            "DB_USER": self.address.user,
            "DB_NAME": self.address.database,
            "DB_SSLMODE": "disable",
            "DB_MAX_OPEN_CONNS": str(_CONNECTIONS_PER_NODE),
            "JWT_SECRET": secrets.token_hex(32),
            "MODELS_FILE": str(models),
            "LOG_LEVEL": "info",
            **_LIMITS,
            **self.pace.environment(),
            **self._extra,
        }

    @staticmethod
    async def _open_database(address: Address) -> Database:
        return await open_pool(
            address,
            DatabaseSettings(max_connections=4),
            application_name="llmchatbot drill",
        )
