"""Devices: starting one at a log-in, rotating its refresh token, ending it (protocol §7, RFC 9700 §4.14).

A family is one device. Its tokens form a chain: the successor of a token is derived from it, so two tabs that race, and
a client that lost the answer, are given the same one. Whoever shows an older token than that has stolen one, or has
been stolen from: the family ends, and that is committed before the refusal is raised.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from llmchatbot.clock import Clock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Connection, Database
from llmchatbot.errors import InvalidRefreshToken, NotFound, RateLimited
from llmchatbot.ids import new_id
from llmchatbot.models.device_sessions import Client, DeviceSession, Family, Grant, RefreshToken
from llmchatbot.models.rate_limits import Quota
from llmchatbot.repositories import device_sessions, user_events, users
from llmchatbot.security import TokenKeys, hash_of, is_refresh_token, new_refresh_token, successor_of
from llmchatbot.services.access_tokens import AccessTokens
from llmchatbot.services.batches import in_batches
from llmchatbot.services.rate_limits import limit_headers
from llmchatbot.streaming.wakeups import SESSION_REVOKED, USER_EVENT, WakeUps

logger = logging.getLogger(__name__)

_MOST_LISTED = 100
_LONGEST_USER_AGENT = 300
# Ended devices stay this long: their tokens are still recognised, their addresses still known.
_REMEMBER_ENDED = timedelta(days=30)
# Each rotation leaves a row. A device needs one in a life of its access token; a page that is loaded again, one more.
_HOUR = 3600.0
_ROTATIONS_PER_HOUR = 240
_ROTATIONS_PER_LIFE = 4
# A refusal of a refresh waits up to this long, holding nothing.
_REFUSAL_MICROSECONDS = 10_000


class DeviceSessionService:
    def __init__(
        self,
        *,
        db: Database,
        wakeups: WakeUps,
        access_tokens: AccessTokens,
        keys: TokenKeys,
        clock: Clock,
        settings: AuthSettings,
    ) -> None:
        self._db = db
        self._wakeups = wakeups
        self._access_tokens = access_tokens
        self._keys = keys
        self._clock = clock
        self._idle = timedelta(seconds=settings.refresh_token_expiry)
        self._absolute = timedelta(seconds=settings.absolute_expiry)
        self._grace = timedelta(seconds=settings.rotation_grace)
        needed = math.ceil(_ROTATIONS_PER_LIFE * _HOUR / settings.access_token_expiry)
        self._quota = Quota(policy="refresh", limit=max(_ROTATIONS_PER_HOUR, needed), period=_HOUR)

    async def start(
        self, transaction: Connection, user_id: UUID, client: Client, *, account_ends_at: datetime | None = None
    ) -> Grant:
        """A new family, inside the transaction of the log-in that it belongs to."""
        now = self._clock.now()
        absolute = now + self._absolute
        if account_ends_at is not None:
            absolute = min(absolute, account_ends_at)
        session = DeviceSession(
            id=new_id(),
            user_id=user_id,
            user_agent=client.user_agent[:_LONGEST_USER_AGENT],
            address=client.address,
            created_at=now,
            last_used_at=now,
            idle_expires_at=min(now + self._idle, absolute),
            absolute_expires_at=absolute,
        )
        token = new_refresh_token()
        await device_sessions.insert(transaction, session)
        await device_sessions.insert_token(transaction, session.id, hash_of(token), 0, now)
        return self._grant(user_id, session.id, token, now, session.idle_expires_at)

    async def refresh(self, token: str) -> Grant:
        """The next pair. Raises InvalidRefreshToken, which never says why; a reused token has ended its family then.

        Raises RateLimited when the device has rotated too often; it and its token stay good.
        """
        grant = await self._refresh(token)
        if grant is None:
            # Unknown, ended, reused: some ten microseconds would tell which, so the answer comes at random.
            await asyncio.sleep(secrets.randbelow(_REFUSAL_MICROSECONDS) / 1e6)
            raise InvalidRefreshToken
        return grant

    async def _refresh(self, token: str) -> Grant | None:
        """None: refused."""
        now = self._clock.now()
        # Without a lock: a flood of worthless tokens locks and writes nothing.
        if not is_refresh_token(token) or not _usable(await device_sessions.find_family(self._db, hash_of(token)), now):
            return None
        async with self._db.transaction() as transaction:
            family = _usable(await device_sessions.lock_family(transaction, hash_of(token)), now)
            if family is None:
                return None
            grant = await self._rotate(transaction, family, token, now)
        if grant is None:
            logger.warning("event=refresh_token_reused user=%s session=%s", family.user_id, family.id)
            # Committed when this returns: a refusal cannot take it back.
            await self.end(family.user_id, family.id, reason="refresh token reused")
        return grant

    async def _rotate(self, transaction: Connection, family: Family, token: str, now: datetime) -> Grant | None:
        """None when the token was used up: it has been in two hands."""
        known = await device_sessions.get_token(transaction, hash_of(token), self._quota.limit)
        successor = successor_of(self._keys, token)
        if known.rotated_at is None:
            self._require_quota(known, now)
            idle_expires_at = min(now + self._idle, family.ends_at)
            await device_sessions.mark_rotated(transaction, hash_of(token), now)
            await device_sessions.insert_token(transaction, family.id, hash_of(successor), known.generation + 1, now)
            await device_sessions.touch(transaction, family.id, now=now, idle_expires_at=idle_expires_at)
            return self._grant(family.user_id, family.id, successor, now, idle_expires_at)
        successor_unused = known.newest_generation == known.generation + 1
        if successor_unused and now - known.rotated_at <= self._grace:
            return self._grant(family.user_id, family.id, successor, now, family.idle_expires_at)
        return None

    def _require_quota(self, known: RefreshToken, now: datetime) -> None:
        """Read off the chain itself, under the family's lock: costs no counter, and is exact. Raises RateLimited."""
        if known.quota_began_at is None:
            return
        wait = self._quota.period - (now - known.quota_began_at).total_seconds()
        if wait > 0:
            raise RateLimited(
                "This device refreshes too often; wait and send the same token again.",
                retry_after=math.ceil(wait),
                headers=limit_headers(self._quota, remaining=0, reset=wait),
            )

    async def list_active(self, user_id: UUID) -> list[DeviceSession]:
        """The hundred most recently used ones."""
        return await device_sessions.list_active(self._db, user_id, self._clock.now(), _MOST_LISTED)

    async def end_owned(self, user_id: UUID, session_id: UUID) -> None:
        """Raises NotFound when this person has no such device, or not any more."""
        if not await self.end(user_id, session_id, reason="ended by its owner"):
            raise NotFound("There is no such device.")

    async def end(self, user_id: UUID, session_id: UUID, *, reason: str) -> bool:
        """Whether there was anything to end."""
        async with self._db.transaction() as transaction:
            await users.lock(transaction, user_id)
            found = await device_sessions.revoke(transaction, user_id, session_id, reason=reason, now=self._clock.now())
            ended = [session_id] if found else []
            await self._tell_feed(transaction, user_id, ended)
        await self.announce(user_id, ended)
        return found

    async def end_by_token(self, refresh_token: str, *, reason: str) -> None:
        """End the family of a refresh token, however old the token is. Silent when there is none."""
        if not is_refresh_token(refresh_token):
            return
        family = await device_sessions.find_family(self._db, hash_of(refresh_token))
        if family is not None:
            await self.end(family.user_id, family.id, reason=reason)

    async def end_all(self, user_id: UUID, *, reason: str) -> None:
        async with self._db.transaction() as transaction:
            ended = await self.revoke_all(transaction, user_id, reason=reason)
        await self.announce(user_id, ended)

    async def revoke_all(
        self, transaction: Connection, user_id: UUID, *, reason: str, keep: UUID | None = None
    ) -> list[UUID]:
        """Part of a larger change: the caller passes the result to `announce` once that is committed."""
        await users.lock(transaction, user_id)
        ended = await device_sessions.revoke_all(transaction, user_id, reason=reason, now=self._clock.now(), keep=keep)
        await self._tell_feed(transaction, user_id, ended)
        return ended

    async def announce(self, user_id: UUID, ended: Sequence[UUID]) -> None:
        """Make these revocations, which are committed, known at once: here directly, elsewhere by wake-ups."""
        for session_id in ended:
            self._access_tokens.forget(session_id)
            await self._wakeups.publish(SESSION_REVOKED, str(session_id))
        if ended:
            await self._wakeups.publish(USER_EVENT, str(user_id))

    async def _tell_feed(self, transaction: Connection, user_id: UUID, ended: Sequence[UUID]) -> None:
        events = [{"type": "session.revoked", "session_id": str(session_id)} for session_id in ended]
        await user_events.append(transaction, user_id, *events)

    async def prolong(self, transaction: Connection, user_id: UUID) -> None:
        """An account has become a lasting one: its devices live as long as any other."""
        now = self._clock.now()
        await device_sessions.prolong(
            transaction, user_id, idle_expires_at=now + self._idle, absolute_expires_at=now + self._absolute
        )

    async def delete_ended(self) -> int:
        """Forget what ended a month ago; how many."""
        before = self._clock.now() - _REMEMBER_ENDED
        return await in_batches(lambda limit: device_sessions.delete_ended(self._db, before, limit))

    def _grant(self, user_id: UUID, session_id: UUID, token: str, now: datetime, idle_expires_at: datetime) -> Grant:
        return Grant(
            user_id=user_id,
            session_id=session_id,
            access_token=self._access_tokens.issue(user_id, session_id, now),
            access_expires_in=self._access_tokens.expires_in,
            refresh_token=token,
            refresh_expires_in=int((idle_expires_at - now).total_seconds()),
        )


def _usable(family: Family | None, now: datetime) -> Family | None:
    if family is not None and family.is_live and now < min(family.idle_expires_at, family.ends_at):
        return family
    return None
