"""Time tells nobody who has an account: with the real hasher, over 2,000 tries."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable

import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.errors import BadCredentials, InvalidRefreshToken
from llmchatbot.models.device_sessions import Client
from llmchatbot.security import PasswordHasher, new_refresh_token
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.auth import NewAccount
from llmchatbot.services.rate_limits import PostgresCounters
from llmchatbot.streaming.wakeups import LocalWakeUps

HERE = Client(address="192.0.2.1")
ADA = NewAccount(email="ada@example.com", username="Ada", password="correct horse battery")
DAY = 86400.0
Try = Callable[[], Awaitable[None]]


def area_under_curve(first: list[float], second: list[float]) -> float:
    """Mann-Whitney: how well a threshold tells them apart; 0.5 is not at all, 1 is always. Never below 0.5."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, group) in enumerate(ranked, 1) if group == 0)
    auc = (ranks - len(first) * (len(first) + 1) / 2) / (len(first) * len(second))
    return max(auc, 1 - auc)


async def measure(first: Try, second: Try, times: int) -> float:
    """In turns, so that whatever else the machine does hits both alike."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for attempt, results in zip((first, second), spent, strict=True):
            start = time.perf_counter()
            await attempt()
            results.append(time.perf_counter() - start)
    return area_under_curve(*spent)


@pytest.mark.nightly
@pytest.mark.parametrize("address", ["203.0.113.1", HERE.address])
async def test_log_in_of_known_and_unknown_people_takes_the_same_time(
    db: Database, manual_clock: ManualClock, address: str
) -> None:
    """From a stranger's address, and from one that the owner uses, too."""
    accounts = Accounts(
        db=db,
        counters=PostgresCounters(db),
        wakeups=LocalWakeUps(),
        clock=manual_clock,
        settings=AuthSettings(jwt_secret="a secret of the tests, long enough for HS256", login_attempts=1_000_000),
        hasher=PasswordHasher(),
    )
    await accounts.auth.register(ADA, HERE)
    numbers = itertools.count()

    async def attempt(email: str) -> None:
        if next(numbers) % 100 == 0:
            manual_clock.advance(DAY + 7200)  # past the limit of tries for one account
        with pytest.raises(BadCredentials):
            await accounts.auth.login(email, "a wrong guess", Client(address=address))

    auc = await measure(lambda: attempt(ADA.email), lambda: attempt("bob@example.com"), 1000)
    accounts.close()
    assert auc < 0.55


@pytest.mark.nightly
async def test_refresh_of_unknown_and_revoked_tokens_takes_the_same_time(accounts: Accounts) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    await accounts.auth.logout(access_token=grant.access_token, refresh_token=None)

    async def attempt(token: str) -> None:
        with pytest.raises(InvalidRefreshToken):
            await accounts.auth.refresh(token)

    unknown = new_refresh_token()
    assert await measure(lambda: attempt(grant.refresh_token), lambda: attempt(unknown), 1000) < 0.55
