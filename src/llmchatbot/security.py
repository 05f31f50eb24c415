"""Hashing and tokens: pure functions with an explicit time (protocol §7, RFC 8725, RFC 9068, RFC 9700, RFC 9106).

A token that is accepted here was made here: its header must be ours byte for byte, its encoding canonical, its claims
exactly the seven that we write, each of its own type and range.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from importlib.resources import files
from threading import BoundedSemaphore
from typing import TypeVar
from uuid import UUID

import argon2
import jwt
import msgspec

from llmchatbot.errors import InvalidToken, Unavailable

T = TypeVar("T")

ISSUER = "llmchatbot"
AUDIENCE = "llmchatbot-api"
ALGORITHM = "HS256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type (RFC 9068 §2.1)

# Longer than any token we make; nothing beyond it is even decoded.
_LONGEST_TOKEN = 1024
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}", re.ASCII)
# No setting of ours makes a longer life (config.py); a claim beyond it was not written by us.
_LONGEST_LIFE = 7 * 86400
# Clocks of two nodes may differ by this much, in seconds.
_CLOCK_SKEW = 60
_REFRESH_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class TokenKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Independent keys made of the one secret, so that knowing one tells nothing about the others."""

    access: bytes
    refresh: bytes
    device: bytes
    kid: str

    @classmethod
    def of(cls, secret: str) -> TokenKeys:
        return cls(
            access=derive_key(secret, "access token"),
            refresh=derive_key(secret, "refresh token successor"),
            device=derive_key(secret, "known device"),
            kid=derive_key(secret, "key id").hex()[:16],
        )

    def __repr__(self) -> str:
        return f"TokenKeys(kid={self.kid!r})"


def derive_key(secret: str, label: str) -> bytes:
    """HKDF-SHA256 of one block (RFC 5869): 32 bytes."""
    extracted = hmac.digest(b"llmchatbot", secret.encode(), "sha256")
    return hmac.digest(extracted, label.encode() + b"\x01", "sha256")


class AccessClaims(msgspec.Struct, frozen=True, kw_only=True):
    user_id: UUID
    session_id: UUID
    token_id: UUID
    issued_at: int
    expires_at: int


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Neither crit nor jku nor jwk nor anything else is read, so nothing else may be there."""

    alg: str
    typ: str
    kid: str


class _Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    iss: str
    aud: str
    sub: str
    sid: str
    iat: int
    exp: int
    jti: str


def sign_access_token(keys: TokenKeys, claims: AccessClaims) -> str:
    return jwt.encode(
        {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(claims.user_id),
            "sid": str(claims.session_id),
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "jti": str(claims.token_id),
        },
        keys.access,
        algorithm=ALGORITHM,
        headers={"typ": TOKEN_TYPE, "kid": keys.kid},
    )


def read_access_token(keys: TokenKeys, token: str, now: datetime, *, allow_expired: bool = False) -> AccessClaims:
    """Raises InvalidToken, which never says why. `allow_expired` is for log-out alone."""
    if len(token) > _LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise InvalidToken
    segments = token.split(".")
    # The last character of base64 has bits that decoders ignore: without this, one token would have several spellings.
    if not all(_is_canonical(segment) for segment in segments):
        raise InvalidToken
    try:
        header = msgspec.json.decode(_decode(segments[0]), type=_Header)
        # Nothing in a header is a choice of the sender.
        if header != _Header(alg=ALGORITHM, typ=TOKEN_TYPE, kid=keys.kid):
            raise InvalidToken
        verified: bytes = jwt.PyJWS().decode(token, keys.access, algorithms=[ALGORITHM])
        claims = msgspec.json.decode(verified, type=_Claims)
        read = AccessClaims(
            user_id=_uuid(claims.sub),
            session_id=_uuid(claims.sid),
            token_id=_uuid(claims.jti),
            issued_at=claims.iat,
            expires_at=claims.exp,
        )
    except (jwt.InvalidTokenError, msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise InvalidToken from error
    _require_in_range(claims, now.timestamp(), allow_expired=allow_expired)
    return read


def _require_in_range(claims: _Claims, now: float, *, allow_expired: bool) -> None:
    good = (
        claims.iss == ISSUER
        and claims.aud == AUDIENCE
        and 0 < claims.iat <= now + _CLOCK_SKEW
        and claims.iat < claims.exp <= claims.iat + _LONGEST_LIFE
        and (allow_expired or now < claims.exp)
    )
    if not good:
        raise InvalidToken


def _uuid(text: str) -> UUID:
    """UUID() also takes braces, `urn:` and missing hyphens; we write one form. Raises ValueError for the others."""
    value = UUID(text)
    if str(value) != text:
        raise ValueError("not the canonical form of a UUID")
    return value


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _is_canonical(segment: str) -> bool:
    try:
        return _encode(_decode(segment)).decode() == segment
    except binascii.Error:
        return False


def new_refresh_token() -> str:
    """32 random bytes, base64url: 43 characters."""
    return secrets.token_urlsafe(32)


def is_refresh_token(text: str) -> bool:
    """Whether it has the one form that we hand out. What has not is refused before the database is asked."""
    return _REFRESH_TOKEN.fullmatch(text) is not None and _is_canonical(text)


def successor_of(keys: TokenKeys, token: str) -> str:
    """The one token that follows `token`: whoever rotates, and however often, gets the same (protocol §7)."""
    return _encode(hmac.digest(keys.refresh, token.encode(), "sha256")).decode()


def hash_of(token: str) -> bytes:
    """What is stored of a secret with full entropy: its SHA-256."""
    return hashlib.sha256(token.encode()).digest()


def device_proof(keys: TokenKeys, user_id: UUID, device_id: UUID) -> str:
    """Shows that somebody has logged in to this account on this device before; it gives no access to anything."""
    return f"{device_id}.{_encode(hmac.digest(keys.device, user_id.bytes + device_id.bytes, 'sha256')).decode()}"


def find_device(keys: TokenKeys, user_id: UUID, proof: str) -> UUID | None:
    """The device that `proof` speaks of, None when it is not a proof for this account."""
    try:
        device_id = _uuid(proof.partition(".")[0])
    except ValueError:
        return None
    expected = device_proof(keys, user_id, device_id)
    return device_id if hmac.compare_digest(expected.encode(), proof.encode("utf-8", "replace")) else None


class CommonPasswords:
    """Passwords that are tried first by everybody. The file holds them in lower case, one a line."""

    def __init__(self, entries: frozenset[str] | None = None) -> None:
        self._entries = entries if entries is not None else _load_common_passwords()

    def __contains__(self, password: str) -> bool:
        lowered = password.casefold()
        return lowered in self._entries or len(set(lowered)) <= 2


def _load_common_passwords() -> frozenset[str]:
    text = files("llmchatbot").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


class PasswordHasher:
    """argon2id in threads of its own: at most `threads` at once and `queue` waiting, so that a flood of log-ins costs a
    bounded share of the machine and the others get a quick 503.

    The parameters are OWASP's smallest for argon2id: 19 MiB, two passes, one lane (about 25 ms).
    """

    def __init__(
        self, *, threads: int = 2, queue: int = 64, memory_kib: int = 19_456, passes: int = 2, lanes: int = 1
    ) -> None:
        self._argon2 = argon2.PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._places = BoundedSemaphore(threads + queue)
        # What a password is compared with when there is no account: it costs the same and never fits.
        self._nobody = self._argon2.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """Raises Unavailable when too many are waiting."""
        self._take_place()
        return await self._run(self._executor.submit(self._argon2.hash, password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """With `stored` None as slow as otherwise, and False. Raises Unavailable when too many are waiting."""
        self._take_place()
        fits = await self._run(self._executor.submit(self._fits, stored or self._nobody, password))
        return fits and stored is not None

    def needs_rehash(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(stored)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _take_place(self) -> None:
        if not self._places.acquire(blocking=False):
            raise Unavailable("Too many people are logging in at this moment; try again shortly.", retry_after=2)

    async def _run(self, job: Future[T]) -> T:
        # The place is given back when the thread is done, not when whoever asked has gone away.
        job.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(job)

    def _fits(self, stored: str, password: str) -> bool:
        try:
            return self._argon2.verify(stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
