"""Where a PostgreSQL is: the one value that the embedded server hands out and everything else connects with."""

from __future__ import annotations

from typing import Any

import msgspec

from llmchatbot.config import DatabaseSettings


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """`host` is a name, an address or, when it begins with a slash, the directory of a Unix socket."""

    host: str
    port: int = 5432
    user: str = "chat_app_user"
    password: str = ""
    database: str = "chat_db"
    sslmode: str = "prefer"

    @classmethod
    def of(cls, settings: DatabaseSettings) -> Address:
        """The external server that the settings name."""
        return cls(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password,
            database=settings.name,
            sslmode=settings.sslmode,
        )

    def applied_to(self, settings: DatabaseSettings) -> DatabaseSettings:
        """The same settings with this address in them, for worker processes that only read settings."""
        return msgspec.structs.replace(
            settings,
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            name=self.database,
            sslmode=self.sslmode,
        )

    def to(self, database: str) -> Address:
        """Another database of the same server."""
        return msgspec.structs.replace(self, database=database)

    @property
    def local(self) -> bool:
        """Whether this is a Unix socket."""
        return self.host.startswith("/")

    def connect_arguments(self) -> dict[str, Any]:
        """Everything explicit, so that no PGHOST or PGPASSWORD of the environment has a say."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "ssl": False if self.local else self.sslmode,
        }

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        """Without the password: fit for logs and messages."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"
