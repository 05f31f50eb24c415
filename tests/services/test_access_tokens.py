"""Log-out works now, on every node, with lost wake-ups too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.database.pool import Database
from llmchatbot.errors import InvalidToken
from llmchatbot.models.device_sessions import Client, Grant
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import device_sessions
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.auth import NewAccount
from llmchatbot.streaming.wakeups import SESSION_REVOKED, LocalWakeUps

HERE = Client(address="192.0.2.1", user_agent="tests")
ADA = NewAccount(email="ada@example.com", username="Ada", password="correct horse battery")
NodeFactory = Callable[..., Accounts]
# Protocol §7: cache ≤ 5 s, dropped at once on revocation.
LONGEST_MEMORY = 5.0


class Mute(LocalWakeUps):
    """Every wake-up is lost."""

    async def publish(self, topic: str, payload: str) -> None:
        pass


class Ear(LocalWakeUps):
    """Writes down what is published, and what the database held at that moment."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db
        self.heard: list[tuple[str, bool]] = []

    async def publish(self, topic: str, payload: str) -> None:
        if topic == SESSION_REVOKED:
            committed = await self._db.fetchval(
                "SELECT revoked_at IS NOT NULL FROM device_sessions WHERE id = $1", UUID(payload)
            )
            self.heard.append((payload, committed))
        await super().publish(topic, payload)


async def is_refused(node: Accounts, grant: Grant) -> bool:
    try:
        await node.auth.authenticate(grant.access_token)
    except InvalidToken:
        return True
    return False


async def log_out(node: Accounts, grant: Grant) -> None:
    await node.auth.logout(access_token=grant.access_token, refresh_token=None)


async def log_out_by_refresh_token(node: Accounts, grant: Grant) -> None:
    await node.auth.logout(access_token=None, refresh_token=grant.refresh_token)


async def log_out_everywhere(node: Accounts, grant: Grant) -> None:
    await node.auth.logout_all(await node.auth.authenticate(grant.access_token))


async def end_the_device(node: Accounts, grant: Grant) -> None:
    await node.sessions.end_owned(grant.user_id, grant.session_id)


async def change_the_password_elsewhere(node: Accounts, grant: Grant) -> None:
    other = await node.auth.login(ADA.email, ADA.password, HERE)
    await node.auth.change_password(
        await node.auth.authenticate(other.access_token), ADA.password, "another horse battery"
    )
    assert not await is_refused(node, other)


async def deactivate(node: Accounts, grant: Grant) -> None:
    await node.auth.deactivate(grant.user_id)


async def reuse_a_refresh_token(node: Accounts, grant: Grant) -> None:
    second = await node.auth.refresh(grant.refresh_token)
    await node.auth.refresh(second.refresh_token)
    with pytest.raises(Exception, match="not valid any more"):
        await node.auth.refresh(grant.refresh_token)


REVOCATIONS = [
    log_out,
    log_out_by_refresh_token,
    log_out_everywhere,
    end_the_device,
    change_the_password_elsewhere,
    deactivate,
    reuse_a_refresh_token,
]


@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_every_revocation_works_at_once_on_every_node(
    account_node: NodeFactory, db: Database, revoke: Callable[[Accounts, Grant], Any]
) -> None:
    wakeups = Ear(db)
    here, there = account_node(wakeups=wakeups), account_node(wakeups=wakeups)
    grant = await here.auth.register(ADA, HERE)
    assert not await is_refused(here, grant)
    assert not await is_refused(there, grant)
    await revoke(here, grant)
    assert await is_refused(here, grant)
    assert await is_refused(there, grant)
    assert (str(grant.session_id), True) in wakeups.heard, "announced after the commit"
    told = [row["payload"] for row in await db.fetch("SELECT payload FROM user_events")]
    assert f'{{"type":"session.revoked","session_id":"{grant.session_id}"}}' in told, "the person's feed says so"
    assert not await here.auth.is_live(Principal(user_id=grant.user_id, session_id=grant.session_id))


@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_with_lost_wake_ups_other_nodes_follow_within_five_seconds(
    account_node: NodeFactory, manual_clock: ManualClock, revoke: Callable[[Accounts, Grant], Any]
) -> None:
    here, there = account_node(wakeups=Mute()), account_node(wakeups=Mute())
    grant = await here.auth.register(ADA, HERE)
    assert not await is_refused(there, grant)
    await revoke(here, grant)
    assert await is_refused(here, grant), "the node that did it needs no wake-up"
    manual_clock.advance(LONGEST_MEMORY)
    assert await is_refused(there, grant)


async def test_an_account_deactivated_by_hand_is_refused_within_five_seconds(
    accounts: Accounts, manual_clock: ManualClock, db: Database
) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    await accounts.auth.authenticate(grant.access_token)
    await db.execute("UPDATE users SET is_active = false")
    manual_clock.advance(LONGEST_MEMORY)
    assert await is_refused(accounts, grant)


async def test_a_good_device_is_asked_for_once_in_five_seconds(
    accounts: Accounts, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    asked = 0
    genuine = device_sessions.find_standing

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await genuine(*arguments)

    monkeypatch.setattr(device_sessions, "find_standing", counted)
    for _ in range(100):
        await accounts.auth.authenticate(grant.access_token)
    assert asked == 1
    manual_clock.advance(LONGEST_MEMORY)
    await accounts.auth.authenticate(grant.access_token)
    assert asked == 2


async def test_an_answer_older_than_a_revocation_is_not_remembered(
    account_node: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database says "good", then somebody logs out, then the answer arrives."""
    wakeups = LocalWakeUps()
    here, there = account_node(wakeups=wakeups), account_node(wakeups=wakeups)
    grant = await here.auth.register(ADA, HERE)
    answered, revoked = asyncio.Event(), asyncio.Event()
    genuine = device_sessions.find_standing

    async def slow(*arguments: Any) -> Any:
        answer = await genuine(*arguments)
        answered.set()
        await revoked.wait()
        return answer

    monkeypatch.setattr(device_sessions, "find_standing", slow)
    asking = asyncio.create_task(there.auth.authenticate(grant.access_token))
    await answered.wait()
    await log_out(here, grant)
    revoked.set()
    await asking
    monkeypatch.setattr(device_sessions, "find_standing", genuine)
    assert await is_refused(there, grant)


async def test_a_remembered_token_still_expires(accounts: Accounts, manual_clock: ManualClock) -> None:
    grant = await accounts.auth.register(ADA, HERE)
    await accounts.auth.authenticate(grant.access_token)
    manual_clock.advance(grant.access_expires_in)
    assert await is_refused(accounts, grant)


async def test_a_signed_token_whose_user_and_device_do_not_belong_together_is_refused(accounts: Accounts) -> None:
    ada = await accounts.auth.register(ADA, HERE)
    bob = await accounts.auth.register(msgspec.structs.replace(ADA, email="bob@example.com"), HERE)
    tokens = accounts.auth._access_tokens
    mixed = tokens.issue(ada.user_id, bob.session_id, tokens._clock.now())
    with pytest.raises(InvalidToken):
        await accounts.auth.authenticate(mixed)
