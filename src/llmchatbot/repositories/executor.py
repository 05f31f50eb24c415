"""What a repository needs of the database: either the pool (one statement) or a connection inside a transaction."""

from __future__ import annotations

from typing import Any, Protocol

from asyncpg import Record


class Executor(Protocol):
    async def fetch(self, query: str, *args: Any) -> list[Record]: ...

    async def fetchrow(self, query: str, *args: Any) -> Record | None: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...

    async def execute(self, query: str, *args: Any) -> str: ...


def count_of(tag: str) -> int:
    """How many rows a statement has touched, from its command tag, e.g. `DELETE 3`."""
    return int(tag.rsplit(" ", 1)[1])
