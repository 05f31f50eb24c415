"""What a repository needs of the database: either the pool (one statement) or a connection inside a transaction."""

from __future__ import annotations

from typing import Any, Protocol

from asyncpg import Record


class Executor(Protocol):
    async def fetch(self, query: str, *args: Any) -> list[Record]: ...

    async def fetchrow(self, query: str, *args: Any) -> Record | None: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...

    async def execute(self, query: str, *args: Any) -> str: ...
