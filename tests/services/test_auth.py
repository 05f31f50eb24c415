"""Registering, logging in, guests, passwords; and what guessing passwords is worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.errors import (
    BadCredentials,
    Conflict,
    DatabaseUnavailable,
    EmailTaken,
    Forbidden,
    InvalidInput,
    InvalidRefreshToken,
    InvalidToken,
    NotFound,
    RateLimited,
    Unavailable,
)
from llmchatbot.ids import new_id
from llmchatbot.models.device_sessions import Client, Grant
from llmchatbot.repositories import users
from llmchatbot.security import PasswordHasher
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.auth import NewAccount
from llmchatbot.services.rate_limits import PostgresCounters
from llmchatbot.streaming.wakeups import LocalWakeUps

HERE = Client(address="192.0.2.1", user_agent="tests")
ADA = NewAccount(email="ada@example.com", username="Ada", password="correct horse battery")
SECRET = "a secret of the tests, long enough for HS256"
HOUR, DAY = 3600.0, 86400.0
NodeFactory = Callable[..., Accounts]


async def guess(accounts: Accounts, address: str, *, email: str = ADA.email, device: str = "") -> str:
    """One wrong log-in: "tried" when the password was looked at, "refused" when it was not."""
    try:
        await accounts.auth.login(email, "a wrong guess", Client(address=address), device=device)
    except BadCredentials:
        return "tried"
    except RateLimited:
        return "refused"
    raise AssertionError("a wrong password was right")


async def test_one_address_gets_twenty_tries_an_hour(accounts: Accounts, manual_clock: ManualClock) -> None:
    await accounts.auth.register(ADA, HERE)
    tries: list[float] = []
    for _ in range(12 * 20):
        if await guess(accounts, "203.0.113.1") == "tried":
            tries.append(manual_clock.monotonic())
        manual_clock.advance(60)
    assert len(tries) <= 4 * 20
    for start in tries:
        assert sum(start <= moment < start + HOUR for moment in tries) <= 20


async def test_twenty_at_once_are_no_way_around(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    outcomes = await asyncio.gather(*(guess(accounts, "203.0.113.1") for _ in range(60)))
    assert outcomes.count("tried") == 20


async def test_a_thousand_addresses_get_a_hundred_tries_a_day(accounts: Accounts, manual_clock: ManualClock) -> None:
    await accounts.auth.register(ADA, HERE)
    outcomes = []
    for number in range(1000):
        outcomes.append(await guess(accounts, f"203.0.{number // 250}.{number % 250}"))
        manual_clock.advance(60)
    assert outcomes.count("tried") <= 100


async def test_the_owner_gets_in_from_a_known_address_while_attacked(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    for number in range(150):
        await guess(accounts, f"203.0.113.{number}")
    assert await guess(accounts, "203.0.113.200") == "refused"
    grant = await accounts.auth.login(ADA.email, ADA.password, HERE)
    assert (await accounts.auth.authenticate(grant.access_token)).user_id == grant.user_id


async def test_the_owner_gets_in_with_a_known_device_from_anywhere(accounts: Accounts) -> None:
    """Even from the attacker's own address."""
    grant = await accounts.auth.register(ADA, HERE)
    proof = accounts.auth.new_device_proof(grant.user_id)
    for _ in range(25):
        await guess(accounts, "203.0.113.1")
    there = Client(address="203.0.113.1")
    with pytest.raises(RateLimited):
        await accounts.auth.login(ADA.email, ADA.password, there)
    await accounts.auth.login(ADA.email, ADA.password, there, device=proof)


async def test_a_known_device_has_its_own_twenty_tries(accounts: Accounts) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    proof = accounts.auth.new_device_proof(grant.user_id)
    outcomes = [await guess(accounts, f"203.0.113.{number}", device=proof) for number in range(30)]
    assert outcomes.count("tried") == 20


async def test_a_device_of_another_account_is_no_known_device(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    attacker = await accounts.auth.register(msgspec.structs.replace(ADA, email="eve@example.com"), HERE)
    proof = accounts.auth.new_device_proof(attacker.user_id)
    outcomes = [await guess(accounts, "203.0.113.1", device=proof) for _ in range(30)]
    assert outcomes.count("tried") == 20


async def test_nobody_else_is_locked_out(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    bob = msgspec.structs.replace(ADA, email="bob@example.com")
    await accounts.auth.register(bob, HERE)
    for _ in range(25):
        await guess(accounts, "203.0.113.1")
    await accounts.auth.login(bob.email, bob.password, Client(address="203.0.113.1"))


async def test_one_address_that_tries_many_accounts_is_stopped(accounts: Accounts) -> None:
    outcomes = [await guess(accounts, "203.0.113.1", email=f"{number}@example.com") for number in range(250)]
    assert outcomes.count("tried") == 200


async def test_right_passwords_do_not_count(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    for _ in range(30):
        await accounts.auth.login(ADA.email, ADA.password, Client(address="203.0.113.1"))


class FullHasher(PasswordHasher):
    """Has room for nobody while `full`."""

    def __init__(self) -> None:
        super().__init__(memory_kib=8, passes=1)
        self.full = False

    def _take_place(self) -> None:
        if self.full:
            raise Unavailable
        super()._take_place()


@pytest.fixture
def full_hasher() -> FullHasher:
    return FullHasher()


@pytest.fixture
def busy(db: Database, manual_clock: ManualClock, full_hasher: FullHasher) -> Iterator[Accounts]:
    """Accounts with that hasher, and three registrations an hour."""
    built = Accounts(
        db=db,
        counters=PostgresCounters(db),
        wakeups=LocalWakeUps(),
        clock=manual_clock,
        settings=AuthSettings(jwt_secret=SECRET, register_per_hour=3),
        hasher=full_hasher,
    )
    yield built
    built.close()


@pytest.mark.parametrize("address", [HERE.address, "203.0.113.1"], ids=["known", "new"])
async def test_log_ins_that_a_full_hasher_refuses_are_not_counted(
    busy: Accounts, full_hasher: FullHasher, address: str
) -> None:
    """Else whoever fills the hasher locks the owner out for an hour."""
    await busy.auth.register(ADA, HERE)
    full_hasher.full = True
    for _ in range(30):
        with pytest.raises(Unavailable):
            await busy.auth.login(ADA.email, ADA.password, Client(address=address))
    full_hasher.full = False
    await busy.auth.login(ADA.email, ADA.password, Client(address=address))


async def test_log_ins_that_the_database_refuses_are_not_counted(
    busy: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy.auth.register(ADA, HERE)
    with monkeypatch.context() as patch:
        patch.setattr(users, "record_login", AsyncMock(side_effect=DatabaseUnavailable))
        for _ in range(30):
            with pytest.raises(DatabaseUnavailable):
                await busy.auth.login(ADA.email, ADA.password, HERE)
    await busy.auth.login(ADA.email, ADA.password, HERE)


async def test_password_changes_that_a_full_hasher_refuses_are_not_counted(
    busy: Accounts, full_hasher: FullHasher
) -> None:
    grant = await busy.auth.register(ADA, HERE)
    principal = await busy.auth.authenticate(grant.access_token)
    full_hasher.full = True
    for _ in range(30):
        with pytest.raises(Unavailable):
            await busy.auth.change_password(principal, ADA.password, "another horse battery")
    full_hasher.full = False
    await busy.auth.change_password(principal, ADA.password, "another horse battery")


async def test_registrations_that_a_full_hasher_refuses_are_not_counted(
    busy: Accounts, full_hasher: FullHasher
) -> None:
    guest = await busy.auth.guest(HERE)
    principal = await busy.auth.authenticate(guest.access_token)
    full_hasher.full = True
    for _ in range(5):
        with pytest.raises(Unavailable):
            await busy.auth.register(ADA, HERE)
        with pytest.raises(Unavailable):
            await busy.auth.upgrade_guest(principal, ADA, HERE)
    full_hasher.full = False
    await busy.auth.register(ADA, HERE)
    await busy.auth.upgrade_guest(principal, msgspec.structs.replace(ADA, email="eve@example.com"), HERE)


async def test_the_refusal_says_when_to_come_back(accounts: Accounts, manual_clock: ManualClock) -> None:
    for _ in range(20):
        await guess(accounts, "203.0.113.1")
    with pytest.raises(RateLimited) as refused:
        await accounts.auth.login(ADA.email, "a wrong guess", Client(address="203.0.113.1"))
    headers = refused.value.headers
    assert headers["RateLimit-Policy"] == '"login";q=20;w=3600'
    assert headers["RateLimit"] == f'"login";r=0;t={headers["Retry-After"]}'
    manual_clock.advance(float(headers["Retry-After"]))
    assert await guess(accounts, "203.0.113.1") == "tried"


async def test_unknown_accounts_are_limited_alike(accounts: Accounts) -> None:
    """A limit that only real accounts have would tell which are real."""
    await accounts.auth.register(ADA, HERE)
    known = [await guess(accounts, "203.0.113.1") for _ in range(25)]
    unknown = [await guess(accounts, "203.0.113.1", email="nobody@example.com") for _ in range(25)]
    assert known == unknown


async def test_counters_do_not_name_anybody(accounts: Accounts, db: Database) -> None:
    await guess(accounts, "203.0.113.1")
    keys = [row["key"] for row in await db.fetch("SELECT key FROM rate_counters")]
    assert keys
    assert not any("ada" in key or "@" in key for key in keys)


async def test_two_spellings_are_one_account(accounts: Accounts) -> None:
    first = await accounts.auth.register(ADA, HERE)
    for spelling in ("ADA@example.com", "Ada@Example.COM"):
        with pytest.raises(EmailTaken):
            await accounts.auth.register(msgspec.structs.replace(ADA, email=spelling), HERE)
        assert (await accounts.auth.login(spelling, ADA.password, HERE)).user_id == first.user_id


async def test_of_ten_registrations_at_once_one_wins(accounts: Accounts, db: Database) -> None:
    results = await asyncio.gather(*(accounts.auth.register(ADA, HERE) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(one, Grant) for one in results) == 1
    assert sum(isinstance(one, EmailTaken) for one in results) == 9
    assert await db.fetchval("SELECT count(*) FROM users") == 1


@pytest.mark.parametrize("password", ["password1", "PASSWORD1", "ada@example.com", "ADA@EXAMPLE.COM", "aaaaaaaaaaaa"])
async def test_passwords_that_anybody_would_try_are_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await accounts.auth.register(msgspec.structs.replace(ADA, password=password), HERE)
    assert refused.value.errors is not None
    assert refused.value.errors[0]["field"] == "password"


async def test_registrations_are_limited_per_address(account_node: NodeFactory) -> None:
    accounts = account_node(settings=AuthSettings(jwt_secret=SECRET, register_per_hour=3))
    for number in range(3):
        await accounts.auth.register(msgspec.structs.replace(ADA, email=f"{number}@example.com"), HERE)
        await accounts.auth.guest(HERE)
    with pytest.raises(RateLimited):
        await accounts.auth.register(ADA, HERE)
    with pytest.raises(RateLimited):
        await accounts.auth.guest(HERE)
    await accounts.auth.register(ADA, Client(address="192.0.2.2"))


async def test_both_doors_can_be_closed(account_node: NodeFactory) -> None:
    closed = AuthSettings(jwt_secret=SECRET, registration_enabled=False, guests_enabled=False)
    accounts = account_node(settings=closed)
    with pytest.raises(Forbidden):
        await accounts.auth.register(ADA, HERE)
    with pytest.raises(Forbidden):
        await accounts.auth.guest(HERE)


async def test_old_hashes_are_renewed_at_log_in(
    account_node: NodeFactory, db: Database, manual_clock: ManualClock
) -> None:
    await account_node().auth.register(ADA, HERE)
    stored = await db.fetchval("SELECT password_hash FROM users")
    stronger = Accounts(
        db=db,
        counters=PostgresCounters(db),
        wakeups=LocalWakeUps(),
        clock=manual_clock,
        settings=AuthSettings(jwt_secret=SECRET),
        hasher=PasswordHasher(memory_kib=16, passes=1),
    )
    await stronger.auth.login(ADA.email, ADA.password, HERE)
    renewed = await db.fetchval("SELECT password_hash FROM users")
    assert renewed != stored
    assert "m=16," in renewed
    await stronger.auth.login(ADA.email, ADA.password, HERE)
    assert await db.fetchval("SELECT password_hash FROM users") == renewed
    stronger.close()


async def test_a_deactivated_account_cannot_log_in_or_refresh(accounts: Accounts) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    await accounts.auth.deactivate(grant.user_id)
    with pytest.raises(BadCredentials):
        await accounts.auth.login(ADA.email, ADA.password, HERE)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(grant.refresh_token)
    with pytest.raises(NotFound):
        await accounts.auth.deactivate(new_id())


async def test_a_password_change_needs_the_old_one_and_ends_the_others(accounts: Accounts) -> None:
    here = await accounts.auth.register(ADA, HERE)
    there = await accounts.auth.login(ADA.email, ADA.password, HERE)
    principal = await accounts.auth.authenticate(here.access_token)
    with pytest.raises(BadCredentials):
        await accounts.auth.change_password(principal, "a wrong guess", "another horse battery")
    with pytest.raises(InvalidInput):
        await accounts.auth.change_password(principal, ADA.password, "password1")
    await accounts.auth.change_password(principal, ADA.password, "another horse battery")
    with pytest.raises(InvalidToken):
        await accounts.auth.authenticate(there.access_token)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(there.refresh_token)
    await accounts.auth.refresh(here.refresh_token)
    with pytest.raises(BadCredentials):
        await accounts.auth.login(ADA.email, ADA.password, HERE)
    await accounts.auth.login(ADA.email, "another horse battery", HERE)


async def test_guessing_the_old_password_with_a_stolen_token_is_limited(accounts: Accounts) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    principal = await accounts.auth.authenticate(grant.access_token)
    for _ in range(20):
        with pytest.raises(BadCredentials):
            await accounts.auth.change_password(principal, "a wrong guess", "another horse battery")
    with pytest.raises(RateLimited):
        await accounts.auth.change_password(principal, ADA.password, "another horse battery")


async def test_a_log_in_that_races_with_a_password_change_leaves_no_device_of_the_old_password(
    accounts: Accounts, db: Database
) -> None:
    old = ADA.password
    grant = await accounts.auth.register(ADA, HERE)
    principal = await accounts.auth.authenticate(grant.access_token)
    for number in range(10):
        new = f"horse battery number {number}"
        await asyncio.gather(
            accounts.auth.change_password(principal, old, new),
            *(accounts.auth.login(ADA.email, old, HERE) for _ in range(4)),
            return_exceptions=True,
        )
        alive = await db.fetch("SELECT id FROM device_sessions WHERE revoked_at IS NULL")
        assert [row["id"] for row in alive] == [grant.session_id]
        old = new


async def test_a_guest_lives_a_day_and_is_then_purged(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    await accounts.auth.register(ADA, HERE)
    guest = await accounts.auth.guest(HERE)
    assert guest.refresh_expires_in == DAY
    manual_clock.advance(DAY - 1)
    refreshed = await accounts.auth.refresh(guest.refresh_token)
    await accounts.auth.authenticate(refreshed.access_token)
    assert await accounts.auth.purge_expired() == 0
    manual_clock.advance(1)
    with pytest.raises(InvalidToken):
        await accounts.auth.authenticate(refreshed.access_token)
    with pytest.raises(InvalidRefreshToken):
        await accounts.auth.refresh(refreshed.refresh_token)
    assert await accounts.auth.purge_expired() == 1
    assert [row["email"] for row in await db.fetch("SELECT email FROM users")] == [ADA.email]


async def test_a_thousand_guests_are_purged_by_two_nodes_at_once(
    account_node: NodeFactory, manual_clock: ManualClock, db: Database
) -> None:
    await db.execute(
        "INSERT INTO users (id, email, username, is_guest, expires_at) "
        "SELECT gen_random_uuid(), n || '@guest.invalid', 'Guest', true, $1 FROM generate_series(1, 1200) n",
        manual_clock.now() - timedelta(seconds=1),
    )
    nodes = [account_node(), account_node()]
    purged = await asyncio.gather(*(node.auth.purge_expired() for node in nodes))
    assert sum(purged) == 1200
    assert await db.fetchval("SELECT count(*) FROM users") == 0


async def test_guests_with_many_chats_are_purged_in_small_statements(
    accounts: Accounts, manual_clock: ManualClock, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one busy guest's messages run into the time limit of a statement, and no guest is ever purged again."""
    guest = await accounts.auth.guest(HERE)
    await db.execute(
        "INSERT INTO chats (id, user_id, title) SELECT gen_random_uuid(), $1, 't' FROM generate_series(1, 50)",
        guest.user_id,
    )
    removed: list[int] = []
    execute = Database.execute

    async def watching(database: Database, query: str, *arguments: Any) -> str:
        before = await database.fetchval("SELECT count(*) FROM chats")
        tag = await execute(database, query, *arguments)
        removed.append(before - await database.fetchval("SELECT count(*) FROM chats"))
        return tag

    monkeypatch.setattr(Database, "execute", watching)
    manual_clock.advance(DAY)
    assert await accounts.auth.purge_expired() == 1
    assert (sum(removed), max(removed)) == (50, 20)


async def test_i6_a_guest_is_purged_once_its_answer_has_ended(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    """Its end is what accounts for it; deleted before, it would have cost nobody anything."""
    guest = await accounts.auth.guest(HERE)
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $1, 't')", guest.user_id)
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, status) "
        "VALUES ($1, $1, $1, $1, $1, 'm', 'running')",
        guest.user_id,
    )
    manual_clock.advance(DAY)
    assert await accounts.auth.purge_expired() == 0
    assert await db.fetchval("SELECT count(*) FROM chats") == 1
    await db.execute("UPDATE generations SET status = 'completed'")
    assert await accounts.auth.purge_expired() == 1
    assert await db.fetchval("SELECT count(*) FROM chats") == 0


async def test_nobody_logs_in_as_a_guest(accounts: Accounts, db: Database) -> None:
    await accounts.auth.guest(HERE)
    email = await db.fetchval("SELECT email FROM users")
    for password in ("", "None", "correct horse battery"):
        with pytest.raises(BadCredentials):
            await accounts.auth.login(email, password, HERE)


async def test_a_guest_may_stay(accounts: Accounts, manual_clock: ManualClock) -> None:
    guest = await accounts.auth.guest(HERE)
    principal = await accounts.auth.authenticate(guest.access_token)
    await accounts.auth.upgrade_guest(principal, ADA, HERE)
    manual_clock.advance(6 * DAY)
    assert await accounts.auth.purge_expired() == 0
    grant = await accounts.auth.refresh(guest.refresh_token)
    assert (await accounts.auth.authenticate(grant.access_token)).user_id == guest.user_id
    assert (await accounts.auth.login(ADA.email, ADA.password, HERE)).user_id == guest.user_id
    with pytest.raises(Conflict):
        await accounts.auth.upgrade_guest(principal, msgspec.structs.replace(ADA, email="eve@example.com"), HERE)


async def test_a_guest_cannot_take_somebody_elses_address(accounts: Accounts) -> None:
    await accounts.auth.register(ADA, HERE)
    guest = await accounts.auth.guest(HERE)
    with pytest.raises(EmailTaken):
        await accounts.auth.upgrade_guest(await accounts.auth.authenticate(guest.access_token), ADA, HERE)


async def test_everything_that_ends_devices_may_happen_at_once(accounts: Accounts, db: Database) -> None:
    """No deadlock: all of them lock the account before its devices."""
    await accounts.auth.register(ADA, HERE)
    for _ in range(5):
        grants = [await accounts.auth.login(ADA.email, ADA.password, HERE) for _ in range(6)]
        principal = await accounts.auth.authenticate(grants[0].access_token)
        results = await asyncio.gather(
            accounts.auth.logout_all(principal),
            accounts.auth.change_password(principal, ADA.password, ADA.password),
            *(accounts.auth.logout(access_token=grant.access_token, refresh_token=None) for grant in grants),
            *(accounts.auth.logout(access_token=None, refresh_token=grant.refresh_token) for grant in grants),
            *(accounts.auth.refresh(grant.refresh_token) for grant in grants),
            return_exceptions=True,
        )
        expected = (InvalidRefreshToken, BadCredentials)
        assert [one for one in results if isinstance(one, BaseException) and not isinstance(one, expected)] == []
        alive = await db.fetch("SELECT id FROM device_sessions WHERE revoked_at IS NULL")
        assert {row["id"] for row in alive}.isdisjoint({grant.session_id for grant in grants})
    events = await db.fetchval("SELECT count(*) FROM user_events WHERE payload LIKE '%session.revoked%'")
    assert events == await db.fetchval("SELECT count(*) FROM device_sessions WHERE revoked_at IS NOT NULL")
