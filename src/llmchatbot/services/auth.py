"""Registering, logging in and out, guests, passwords (protocol §7)."""

from __future__ import annotations

import unicodedata
from datetime import timedelta
from uuid import UUID

import msgspec

from llmchatbot.clock import Clock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.errors import BadCredentials, Conflict, FieldError, Forbidden, InvalidInput, InvalidToken, NotFound
from llmchatbot.ids import new_id
from llmchatbot.models.device_sessions import Client, Grant
from llmchatbot.models.principals import Principal
from llmchatbot.models.rate_limits import Quota
from llmchatbot.models.users import LoginCandidate
from llmchatbot.repositories import rate_limits, users
from llmchatbot.security import CommonPasswords, PasswordHasher, TokenKeys, device_proof, find_device
from llmchatbot.services.access_tokens import AccessTokens
from llmchatbot.services.batches import in_batches
from llmchatbot.services.device_sessions import DeviceSessionService
from llmchatbot.services.rate_limits import Attempts, network_of, opaque

_HOUR = 3600.0
_DAY = 86400.0
# From addresses that never logged in to an account, all of them together.
_STRANGERS_PER_DAY = 100
# One address tries many accounts: ten times what it may try on one.
_ACCOUNTS_PER_ADDRESS = 10
# Each takes along what hangs on it: messages the one, devices and events the other.
_CHATS_AT_ONCE = 20
_GUESTS_AT_ONCE = 100


class NewAccount(msgspec.Struct, frozen=True, kw_only=True):
    email: str
    username: str
    password: str


class AuthService:
    def __init__(
        self,
        *,
        db: Database,
        sessions: DeviceSessionService,
        access_tokens: AccessTokens,
        hasher: PasswordHasher,
        common_passwords: CommonPasswords,
        attempts: Attempts,
        keys: TokenKeys,
        clock: Clock,
        settings: AuthSettings,
    ) -> None:
        self._db = db
        self._sessions = sessions
        self._access_tokens = access_tokens
        self._hasher = hasher
        self._common_passwords = common_passwords
        self._attempts = attempts
        self._keys = keys
        self._clock = clock
        self._settings = settings

    async def authenticate(self, token: str) -> Principal:
        """Raises InvalidToken when the access token or its device is not good any more."""
        return await self._access_tokens.authenticate(token)

    async def is_live(self, principal: Principal) -> bool:
        """Whether somebody who was authenticated before still is; for streams that live longer than a request."""
        return await self._access_tokens.is_live(principal)

    async def register(self, account: NewAccount, client: Client) -> Grant:
        """Raises EmailTaken, Forbidden (registration is closed), InvalidInput (password), RateLimited, Unavailable."""
        if not self._settings.registration_enabled:
            raise Forbidden("Registration is closed here; ask the operator for an account.")
        self._require_acceptable(account.password, account.email, account.username)
        async with self._attempts.taking([self._per_address("register", client)]):
            password_hash = await self._hasher.hash(account.password)
            user_id = new_id()
            async with self._db.transaction() as transaction:
                await users.insert(
                    transaction,
                    user_id=user_id,
                    email=normalise_email(account.email),
                    username=account.username,
                    password_hash=password_hash,
                    expires_at=None,
                    now=self._clock.now(),
                )
                return await self._sessions.start(transaction, user_id, _counted(client))

    async def guest(self, client: Client) -> Grant:
        """An account without e-mail and password that ends by itself. Raises Forbidden, RateLimited."""
        if not self._settings.guests_enabled:
            raise Forbidden("Guests are not let in here; register or log in.")
        async with self._attempts.taking([self._per_address("guest", client)]):
            now = self._clock.now()
            expires_at = now + timedelta(seconds=self._settings.guest_lifetime)
            user_id = new_id()
            async with self._db.transaction() as transaction:
                await users.insert(
                    transaction,
                    user_id=user_id,
                    # .invalid is reserved (RFC 2606): nobody has such an address, nobody can register it by accident.
                    email=f"guest-{user_id}@guest.invalid",
                    username="Guest",
                    password_hash=None,
                    expires_at=expires_at,
                    now=now,
                )
                return await self._sessions.start(transaction, user_id, _counted(client), account_ends_at=expires_at)

    async def upgrade_guest(self, principal: Principal, account: NewAccount, client: Client) -> None:
        """Make a guest's account a lasting one; chats and devices stay.

        Raises Conflict (it is none), EmailTaken, Forbidden, InvalidInput, RateLimited, Unavailable.
        """
        if not self._settings.registration_enabled:
            raise Forbidden("Registration is closed here; ask the operator for an account.")
        self._require_acceptable(account.password, account.email, account.username)
        async with self._attempts.taking([self._per_address("register", client)]):
            password_hash = await self._hasher.hash(account.password)
            async with self._db.transaction() as transaction:
                upgraded = await users.upgrade(
                    transaction,
                    principal.user_id,
                    email=normalise_email(account.email),
                    username=account.username,
                    password_hash=password_hash,
                    now=self._clock.now(),
                )
                if not upgraded:
                    raise Conflict("This is not a guest's account.")
                await self._sessions.prolong(transaction, principal.user_id)
        # Not ended, but what is remembered of it (its end) is not true any more.
        self._access_tokens.forget(principal.session_id)

    async def login(self, email: str, password: str, client: Client, *, device: str = "") -> Grant:
        """`device` is a proof of `device_proof`. Raises BadCredentials, RateLimited, Unavailable.

        Same answer, same work whether the account exists or not.
        """
        email = normalise_email(email)
        client = _counted(client)
        candidate = await users.find_login_candidate(self._db, email, client.address)
        quotas = self._login_quotas(email, client, candidate, device)
        # Counted before the password is looked at, or a thousand at once would all be the first; given back if it fits,
        # or was never looked at.
        async with self._attempts.taking(quotas):
            stored = candidate.password_hash if candidate is not None else None
            fits = await self._hasher.verify(stored, password)
            if candidate is None or stored is None or not fits or not candidate.is_active:
                raise BadCredentials
            new_hash = await self._hasher.hash(password) if self._hasher.needs_rehash(stored) else stored
            async with self._db.transaction() as transaction:
                if not await users.record_login(
                    transaction, candidate.id, verified_hash=stored, new_hash=new_hash, now=self._clock.now()
                ):
                    raise BadCredentials
                grant = await self._sessions.start(transaction, candidate.id, client)
        await self._attempts.give_back(quotas)
        return grant

    def _login_quotas(
        self, email: str, client: Client, candidate: LoginCandidate | None, device: str
    ) -> list[tuple[str, Quota]]:
        """A device or address that has logged in before is counted for itself alone: what strangers do cannot lock it
        out. Strangers are counted per account and address, per account, and per address."""
        account = opaque(email)
        own = Quota(policy="login", limit=self._settings.login_attempts, period=_HOUR)
        if candidate is not None and (device_id := find_device(self._keys, candidate.id, device)) is not None:
            return [(f"login:{account}:device:{device_id}", own)]
        pair = (f"login:{account}:{client.address}", own)
        if candidate is not None and candidate.address_known:
            return [pair]
        strangers = Quota(policy="login-account", limit=_STRANGERS_PER_DAY, period=_DAY)
        sweep = Quota(policy="login-address", limit=own.limit * _ACCOUNTS_PER_ADDRESS, period=_HOUR)
        return [pair, (f"login:{account}", strangers), (f"login-address:{client.address}", sweep)]

    def new_device_proof(self, user_id: UUID) -> str:
        """For a client that can keep it: see `login`."""
        return device_proof(self._keys, user_id, new_id())

    async def refresh(self, refresh_token: str) -> Grant:
        """Raises InvalidRefreshToken, RateLimited."""
        return await self._sessions.refresh(refresh_token)

    async def logout(self, *, access_token: str | None, refresh_token: str | None) -> None:
        """End the device of whichever token is shown, expired or not. Never refuses: out is out."""
        if access_token is not None and (found := self._access_tokens.find_session(access_token)) is not None:
            user_id, session_id = found
            await self._sessions.end(user_id, session_id, reason="logged out")
        if refresh_token:
            await self._sessions.end_by_token(refresh_token, reason="logged out")

    async def logout_all(self, principal: Principal) -> None:
        await self._sessions.end_all(principal.user_id, reason="logged out everywhere")

    async def change_password(self, principal: Principal, old: str, new: str) -> None:
        """Ends all other devices. Raises BadCredentials, Conflict (a guest), InvalidInput, RateLimited, Unavailable."""
        user = await users.find(self._db, principal.user_id)
        stored = await users.find_password_hash(self._db, principal.user_id)
        if user is None:
            raise InvalidToken
        if stored is None:
            raise Conflict("A guest has no password; make the account a lasting one first.")
        self._require_acceptable(new, user.email, user.username)
        quota = Quota(policy="password", limit=self._settings.login_attempts, period=_HOUR)
        # Per device: whoever holds a stolen token cannot keep the owner from changing the password.
        quotas = [(f"password:{principal.session_id}", quota)]
        async with self._attempts.taking(quotas):
            if not await self._hasher.verify(stored, old):
                raise BadCredentials("The old password is wrong.")
            new_hash = await self._hasher.hash(new)
            async with self._db.transaction() as transaction:
                if not await users.replace_password(
                    transaction, principal.user_id, verified_hash=stored, new_hash=new_hash
                ):
                    raise BadCredentials("The old password is wrong.")
                ended = await self._sessions.revoke_all(
                    transaction, principal.user_id, reason="password changed", keep=principal.session_id
                )
        await self._sessions.announce(principal.user_id, ended)
        await self._attempts.give_back(quotas)

    async def deactivate(self, user_id: UUID) -> None:
        """For operators: the account is closed, its devices are logged out now. Raises NotFound."""
        async with self._db.transaction() as transaction:
            if not await users.deactivate(transaction, user_id):
                raise NotFound("There is no such account.")
            ended = await self._sessions.revoke_all(transaction, user_id, reason="account deactivated")
        await self._sessions.announce(user_id, ended)

    async def purge_expired(self) -> int:
        """Delete guests whose time is over, with their chats, and what nobody needs of ended devices and counters.

        Safe to run in all processes at once. The number of guests deleted.
        """
        now = self._clock.now()
        await in_batches(lambda limit: users.delete_chats_of_expired_guests(self._db, now, limit), _CHATS_AT_ONCE)
        deleted = await in_batches(lambda limit: users.delete_expired_guests(self._db, now, limit), _GUESTS_AT_ONCE)
        await self._sessions.delete_ended()
        await in_batches(lambda limit: rate_limits.delete_expired(self._db, now, limit))
        return deleted

    def _per_address(self, policy: str, client: Client) -> tuple[str, Quota]:
        quota = Quota(policy=policy, limit=self._settings.register_per_hour, period=_HOUR)
        return f"{policy}:{network_of(client.address)}", quota

    def _require_acceptable(self, password: str, email: str, username: str) -> None:
        lowered = password.casefold()
        own = {email.casefold(), email.partition("@")[0].casefold(), username.casefold()}
        if lowered in own or password in self._common_passwords:
            sentence = "This password is one of the first that anybody would try; choose another."
            raise InvalidInput(sentence, errors=[FieldError("password", sentence)])


def normalise_email(email: str) -> str:
    """One spelling for one address: lower case, composed characters."""
    return unicodedata.normalize("NFC", email).lower()


def _counted(client: Client) -> Client:
    """The address is stored as it is counted, so that "known" and "counted" mean the same."""
    return msgspec.structs.replace(client, address=network_of(client.address))
