"""Account services on a real database, as many nodes as a test wants, on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.security import PasswordHasher
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.rate_limits import PostgresCounters
from llmchatbot.streaming.wakeups import LocalWakeUps, WakeUps

NodeFactory = Callable[..., Accounts]


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def account_node(db: Database, manual_clock: ManualClock) -> Iterator[NodeFactory]:
    """Builds one process's services; give several the same `wakeups` and they hear each other."""
    built: list[Accounts] = []

    def build(*, wakeups: WakeUps | None = None, db: Database = db, settings: AuthSettings | None = None) -> Accounts:
        node = Accounts(
            db=db,
            counters=PostgresCounters(db),
            wakeups=wakeups or LocalWakeUps(),
            clock=manual_clock,
            settings=settings or AuthSettings(jwt_secret="a secret of the tests, long enough for HS256"),
            hasher=PasswordHasher(memory_kib=8, passes=1),  # quick instead of safe
        )
        built.append(node)
        return node

    yield build
    for node in built:
        node.close()


@pytest.fixture
def accounts(account_node: NodeFactory) -> Accounts:
    return account_node()
