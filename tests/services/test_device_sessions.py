"""Families of refresh tokens: rotation without forks, grace, reuse, ends (protocol §7)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.config import AuthSettings, Duration
from llmchatbot.database.address import Address
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable, InvalidRefreshToken, InvalidToken, RateLimited
from llmchatbot.ids import new_id
from llmchatbot.models.device_sessions import Client, Grant
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import device_sessions, stream_tickets
from llmchatbot.security import new_refresh_token
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.auth import NewAccount

HERE = Client(address="192.0.2.1", user_agent="tests")
ADA = NewAccount(email="ada@example.com", username="Ada", password="correct horse battery")
DAY = 86400.0
TICKET_FOR = new_id()
NodeFactory = Callable[..., Accounts]


async def revoked_reason(db: Database, session_id: UUID) -> str | None:
    reason: str | None = await db.fetchval("SELECT revoked_reason FROM device_sessions WHERE id = $1", session_id)
    return reason


async def test_a_refresh_gives_the_next_pair_of_the_same_device(accounts: Accounts) -> None:
    first = await accounts.auth.register(ADA, HERE)
    second = await accounts.auth.refresh(first.refresh_token)
    assert second.session_id == first.session_id
    assert second.refresh_token != first.refresh_token
    assert (await accounts.auth.authenticate(second.access_token)).session_id == first.session_id


async def test_a_new_secret_voids_access_tokens_and_logs_nobody_out(account_node: NodeFactory) -> None:
    """What docs/accounts.md promises to an operator who changes a secret that has leaked."""
    first = await account_node().auth.register(ADA, HERE)
    after = account_node(settings=AuthSettings(jwt_secret="another secret, long enough for HS256 as well"))
    with pytest.raises(InvalidToken):
        await after.auth.authenticate(first.access_token)
    second = await after.auth.refresh(first.refresh_token)
    assert second.session_id == first.session_id
    assert (await after.auth.authenticate(second.access_token)).user_id == first.user_id
    third = await after.auth.refresh(second.refresh_token)
    assert third.session_id == first.session_id


async def test_two_tabs_that_race_get_the_same_successor(accounts: Accounts) -> None:
    first = await accounts.auth.register(ADA, HERE)
    grants = await asyncio.gather(*(accounts.auth.refresh(first.refresh_token) for _ in range(8)))
    assert len({grant.refresh_token for grant in grants}) == 1


async def test_a_client_that_lost_the_answer_gets_it_again_for_ten_seconds(
    accounts: Accounts, manual_clock: ManualClock
) -> None:
    first = await accounts.auth.register(ADA, HERE)
    lost = await accounts.auth.refresh(first.refresh_token)
    manual_clock.advance(10)
    assert (await accounts.auth.refresh(first.refresh_token)).refresh_token == lost.refresh_token


async def test_after_the_grace_an_old_token_ends_the_device(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    first = await accounts.auth.register(ADA, HERE)
    second = await accounts.auth.refresh(first.refresh_token)
    manual_clock.advance(10.001)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(first.refresh_token)
    assert await revoked_reason(db, first.session_id) == "refresh token reused"
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(second.refresh_token)
    with pytest.raises(InvalidToken):
        await accounts.auth.authenticate(second.access_token)


async def test_within_the_grace_a_used_successor_ends_the_device(accounts: Accounts, db: Database) -> None:
    """A grandparent token is in two hands."""
    first = await accounts.auth.register(ADA, HERE)
    second = await accounts.auth.refresh(first.refresh_token)
    await accounts.auth.refresh(second.refresh_token)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(first.refresh_token)
    assert await revoked_reason(db, first.session_id) == "refresh token reused"


async def test_reuse_ends_one_device_and_no_other(accounts: Accounts, manual_clock: ManualClock) -> None:
    first = await accounts.auth.register(ADA, HERE)
    other = await accounts.auth.login(ADA.email, ADA.password, HERE)
    await accounts.auth.refresh(first.refresh_token)
    manual_clock.advance(11)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(first.refresh_token)
    assert (await accounts.auth.authenticate(other.access_token)).session_id == other.session_id
    await accounts.auth.refresh(other.refresh_token)


async def test_unknown_and_malformed_tokens_are_refused_alike(accounts: Accounts) -> None:
    for token in ("", "x", new_refresh_token(), "é" * 43):
        with pytest.raises(InvalidRefreshToken) as refused:
            await accounts.auth.refresh(token)
        assert refused.value.detail == InvalidRefreshToken.title


async def test_idle_end_after_seven_days_and_each_refresh_prolongs(
    accounts: Accounts, manual_clock: ManualClock
) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    for _ in range(3):
        manual_clock.advance(6 * DAY)
        grant = await accounts.auth.refresh(grant.refresh_token)
    manual_clock.advance(7 * DAY)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(grant.refresh_token)


async def test_absolute_end_after_ninety_days(accounts: Accounts, manual_clock: ManualClock) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    for _ in range(15):
        manual_clock.advance(6 * DAY - 1)
        grant = await accounts.auth.refresh(grant.refresh_token)
    assert grant.refresh_expires_in == 15
    manual_clock.advance(15)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(grant.refresh_token)
    with pytest.raises(InvalidToken):
        await accounts.auth.authenticate(grant.access_token)


async def rotate(accounts: Accounts, grant: Grant, times: int) -> Grant:
    for _ in range(times):
        grant = await accounts.auth.refresh(grant.refresh_token)
    return grant


async def test_a_device_rotates_240_times_in_any_hour_and_lives_on(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    """Each rotation leaves a row. What is refused is the rotation, not the device, and not another one."""
    other = await accounts.auth.register(ADA, HERE)
    grant = await rotate(accounts, await accounts.auth.login(ADA.email, ADA.password, HERE), 100)
    manual_clock.advance(1800)
    grant = await rotate(accounts, grant, 140)
    rows = await db.fetchval("SELECT count(*) FROM refresh_tokens")
    with pytest.raises(RateLimited) as refused:
        await accounts.auth.refresh(grant.refresh_token)
    assert refused.value.headers["Retry-After"] == "1800"
    assert refused.value.headers["RateLimit-Policy"] == '"refresh";q=240;w=3600'
    assert await db.fetchval("SELECT count(*) FROM refresh_tokens") == rows
    assert (await accounts.auth.authenticate(grant.access_token)).session_id == grant.session_id
    await accounts.auth.refresh(other.refresh_token)
    manual_clock.advance(1799)
    with pytest.raises(RateLimited):
        await accounts.auth.refresh(grant.refresh_token)
    manual_clock.advance(1)
    grant = await rotate(accounts, grant, 100)
    with pytest.raises(RateLimited):
        await accounts.auth.refresh(grant.refresh_token)


async def test_rotations_that_are_repeated_within_the_grace_are_free(accounts: Accounts) -> None:
    before = await rotate(accounts, await accounts.auth.register(ADA, HERE), 239)
    last = await accounts.auth.refresh(before.refresh_token)
    for _ in range(20):
        assert (await accounts.auth.refresh(before.refresh_token)).refresh_token == last.refresh_token
    with pytest.raises(RateLimited):
        await accounts.auth.refresh(last.refresh_token)


async def test_short_lives_of_access_tokens_bring_more_rotations(account_node: NodeFactory) -> None:
    """Or a client that does as it must would be refused."""
    settings = AuthSettings(jwt_secret="a secret of the tests, long enough for HS256", access_token_expiry=Duration(6))
    accounts = account_node(settings=settings)
    await rotate(accounts, await accounts.auth.register(ADA, HERE), 700)


async def may_read(db: Database, grant: Grant, manual_clock: ManualClock, ticket: bytes) -> tuple[bool, bool]:
    """Whether an open stream of this device stays open, and whether a ticket of it opens one."""
    now = manual_clock.now()
    ended = await device_sessions.ended_among(db, [grant.session_id], now)
    found = await stream_tickets.find(db, ticket, TICKET_FOR, now)
    assert found in (None, Principal(user_id=grant.user_id, session_id=grant.session_id))
    return not ended, found is not None


async def ticket_of(db: Database, grant: Grant, manual_clock: ManualClock) -> bytes:
    """For an answer of this person; one that does not end by itself."""
    ticket, never = b"t" * 32, manual_clock.now() + timedelta(days=1000)
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $1, 't')", grant.user_id)
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, status) "
        "VALUES ($2, $1, $1, $1, $1, 'm', 'running')",
        grant.user_id,
        TICKET_FOR,
    )
    await stream_tickets.create(db, ticket, TICKET_FOR, grant.user_id, grant.session_id, never)
    return ticket


async def test_streams_and_tickets_end_with_the_idle_end_of_their_device(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    """An open stream is no use of its device. Refreshing, as a page with a stream does, is."""
    grant = await accounts.auth.register(ADA, HERE)
    ticket = await ticket_of(db, grant, manual_clock)
    manual_clock.advance(6 * DAY)
    await accounts.auth.refresh(grant.refresh_token)
    manual_clock.advance(7 * DAY - 1)
    assert await may_read(db, grant, manual_clock, ticket) == (True, True)
    manual_clock.advance(1)
    assert await may_read(db, grant, manual_clock, ticket) == (False, False)


async def test_streams_and_tickets_end_with_the_absolute_end_of_their_device(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    """Moved before the idle end, so that it is the one that is asked for."""
    grant = await accounts.auth.register(ADA, HERE)
    ticket = await ticket_of(db, grant, manual_clock)
    await db.execute("UPDATE device_sessions SET absolute_expires_at = $1", manual_clock.now() + timedelta(days=1))
    manual_clock.advance(DAY - 1)
    assert await may_read(db, grant, manual_clock, ticket) == (True, True)
    manual_clock.advance(1)
    assert await may_read(db, grant, manual_clock, ticket) == (False, False)


async def test_a_device_that_ended_is_forgotten_after_a_month(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    ended = await accounts.auth.register(ADA, HERE)
    await accounts.auth.logout(access_token=ended.access_token, refresh_token=None)
    manual_clock.advance(29 * DAY)
    await accounts.auth.purge_expired()
    assert await db.fetchval("SELECT count(*) FROM device_sessions") == 1
    manual_clock.advance(2 * DAY)
    alive = await accounts.auth.login(ADA.email, ADA.password, HERE)
    await accounts.auth.purge_expired()
    assert [row["id"] for row in await db.fetch("SELECT id FROM device_sessions")] == [alive.session_id]


class Tab:
    """A client that refreshes until it gets an answer, as a browser does; no answer is a broken database."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self.lost = 0

    async def refresh(self, token: str) -> Grant:
        while True:
            try:
                return await self._accounts.auth.refresh(token)
            except DatabaseUnavailable:
                self.lost += 1


async def kill_at_random(address: Address, rng: random.Random, enough: asyncio.Event) -> int:
    """Terminate one server process of the pool after the other; the number of kills."""
    connection = await asyncpg.connect(**address.connect_arguments())
    kills = 0
    try:
        while not enough.is_set():
            pids = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND application_name = 'llmchatbot'"
            )
            if pids:
                kills += await connection.fetchval("SELECT pg_terminate_backend($1)::int", rng.choice(pids)["pid"])
            await asyncio.sleep(rng.uniform(0.02, 0.08))
    finally:
        await connection.close()
    return kills


@pytest.mark.parametrize(
    "generations", [pytest.param(150, id="3000"), pytest.param(5000, id="100000", marks=pytest.mark.nightly)]
)
async def test_concurrent_refreshes_with_killed_connections_never_fork_and_never_log_out(
    accounts: Accounts, manual_clock: ManualClock, db: Database, database: Address, generations: int
) -> None:
    """20 at once for each generation: every one gets the same successor, whatever happens to the connections."""
    grant = await accounts.auth.register(ADA, HERE)
    tab, enough = Tab(accounts), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        killing = group.create_task(kill_at_random(database, random.Random(29), enough))
        for _ in range(generations):
            grants = await asyncio.gather(*(tab.refresh(grant.refresh_token) for _ in range(20)))
            assert len({one.refresh_token for one in grants}) == 1, "a fork"
            grant = grants[0]
            manual_clock.advance(16)  # below the quota of rotations
        enough.set()
    assert killing.result() > 10
    assert tab.lost > 0
    rows = await db.fetch("SELECT generation, rotated_at FROM refresh_tokens ORDER BY generation")
    assert [row["generation"] for row in rows] == list(range(generations + 1))
    assert [row["rotated_at"] is None for row in rows] == [False] * generations + [True]
    assert await revoked_reason(db, grant.session_id) is None, "a false log-out"
    assert (await accounts.auth.authenticate(grant.access_token)).session_id == grant.session_id


async def test_a_log_out_that_races_with_refreshes_wins(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    for _ in range(20):
        grant = await accounts.auth.login(ADA.email, ADA.password, HERE)
        results = await asyncio.gather(
            accounts.auth.refresh(grant.refresh_token),
            accounts.auth.logout(access_token=grant.access_token, refresh_token=None),
            accounts.auth.refresh(grant.refresh_token),
            return_exceptions=True,
        )
        assert results[1] is None
        for one in results:
            if isinstance(one, Grant):
                with pytest.raises(InvalidRefreshToken):
                    await accounts.auth.refresh(one.refresh_token)
                with pytest.raises(InvalidToken):
                    await accounts.auth.authenticate(one.access_token)
