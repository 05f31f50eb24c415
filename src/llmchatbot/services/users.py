"""A person's profile."""

from __future__ import annotations

from uuid import UUID

from llmchatbot.database.pool import Database
from llmchatbot.errors import NotFound, PreconditionFailed
from llmchatbot.models.users import User
from llmchatbot.repositories import users


class UserService:
    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def get(self, user_id: UUID) -> User:
        """Raises NotFound."""
        user = await users.find(self._db, user_id)
        if user is None:
            raise NotFound("There is no such account.")
        return user

    async def rename(self, user_id: UUID, username: str, *, versions: list[int] | None = None) -> User:
        """`versions`: the account must be in one of these. Raises NotFound, PreconditionFailed."""
        user = await users.rename(self._db, user_id, username, versions)
        if user is None:
            await self.get(user_id)
            raise PreconditionFailed
        return user
