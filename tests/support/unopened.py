"""A backend whose services are never called, for what only looks at the routes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from llmchatbot.config import Settings
from llmchatbot.wiring import Backend


class _Unopened(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return None


def unopened_backend(settings: Settings | None = None) -> Backend:
    accounts = SimpleNamespace(auth=None, users=None, sessions=None)
    return cast("Backend", _Unopened(settings=settings or Settings(), accounts=accounts))
