"""Access tokens: issuing them, and answering at once whether one is good right now.

A token says who and which device; whether that device is still logged in says the database, remembered for a few
seconds and forgotten at once when a revocation is heard of. A lost wake-up therefore delays by the memory's length.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from llmchatbot.clock import Clock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.errors import InvalidToken
from llmchatbot.ids import new_id
from llmchatbot.models.device_sessions import Standing
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import device_sessions
from llmchatbot.security import AccessClaims, TokenKeys, read_access_token, sign_access_token
from llmchatbot.streaming.wakeups import SESSION_REVOKED, WakeUps

# Protocol §7 allows five seconds; one is left for the request that is under way.
_REMEMBERED_FOR = 4.0
_MOST_REMEMBERED = 20_000


class _Remembered(msgspec.Struct, frozen=True):
    standing: Standing
    asked_at: float


class AccessTokens:
    def __init__(
        self, *, db: Database, wakeups: WakeUps, keys: TokenKeys, clock: Clock, settings: AuthSettings
    ) -> None:
        self._db = db
        self._keys = keys
        self._clock = clock
        self._lifetime = timedelta(seconds=settings.access_token_expiry)
        # Full SHA-256 of a token -> its claims: the signature of a token is verified once, its expiry each time.
        self._verified: dict[bytes, AccessClaims] = {}
        self._standings: dict[UUID, _Remembered] = {}
        self._revocations = 0
        self._unsubscribe = wakeups.subscribe(SESSION_REVOKED, self._on_revoked)

    def close(self) -> None:
        self._unsubscribe()

    @property
    def expires_in(self) -> int:
        """Life of a token, in seconds."""
        return int(self._lifetime.total_seconds())

    def issue(self, user_id: UUID, session_id: UUID, now: datetime) -> str:
        issued_at = int(now.timestamp())
        return sign_access_token(
            self._keys,
            AccessClaims(
                user_id=user_id,
                session_id=session_id,
                token_id=new_id(),
                issued_at=issued_at,
                expires_at=issued_at + self.expires_in,
            ),
        )

    async def authenticate(self, token: str) -> Principal:
        """Raises InvalidToken when the token or its device is not good any more."""
        now = self._clock.now()
        claims = self._claims_of(token, now)
        principal = Principal(user_id=claims.user_id, session_id=claims.session_id)
        if not await self.is_live(principal):
            raise InvalidToken
        return principal

    async def is_live(self, principal: Principal) -> bool:
        """Whether this device is logged in; what a stream asks now and then, in case a wake-up was lost."""
        standing = await self._standing_of(principal.session_id)
        return (
            standing is not None
            and standing.is_live
            and standing.user_id == principal.user_id
            and self._clock.now() < standing.ends_at
        )

    def forget(self, session_id: UUID) -> None:
        """Called at once where a device is ended; elsewhere the wake-up does it."""
        self._revocations += 1
        self._standings.pop(session_id, None)

    def find_session(self, token: str) -> tuple[UUID, UUID] | None:
        """(user, device) of a token of ours, expired or not: enough to log it out. None for anything else."""
        try:
            claims = read_access_token(self._keys, token, self._clock.now(), allow_expired=True)
        except InvalidToken:
            return None
        return claims.user_id, claims.session_id

    def _claims_of(self, token: str, now: datetime) -> AccessClaims:
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = read_access_token(self._keys, token, now)
            _make_room(self._verified)
            self._verified[digest] = claims
        elif now.timestamp() >= claims.expires_at:
            del self._verified[digest]
            raise InvalidToken
        return claims

    async def _standing_of(self, session_id: UUID) -> Standing | None:
        asked_at = self._clock.monotonic()
        known = self._standings.get(session_id)
        if known is not None and asked_at - known.asked_at < _REMEMBERED_FOR:
            return known.standing
        before = self._revocations
        standing = await device_sessions.find_standing(self._db, session_id)
        # A revocation that was heard of while the database answered may be newer than the answer.
        if standing is not None and before == self._revocations:
            self._standings.pop(session_id, None)
            _make_room(self._standings)
            self._standings[session_id] = _Remembered(standing, asked_at)
        return standing

    def _on_revoked(self, payload: str) -> None:
        try:
            self.forget(UUID(payload))
        except ValueError:
            # Not an id: rather ask the database for everybody than overlook one.
            self._revocations += 1
            self._standings.clear()


def _make_room(memory: dict[bytes, AccessClaims] | dict[UUID, _Remembered]) -> None:
    if len(memory) >= _MOST_REMEMBERED:
        del memory[next(iter(memory))]  # type: ignore[arg-type] # a key of the dict itself
