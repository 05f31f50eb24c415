"""The services of accounts, put together: they share keys, caches and counters, and end together."""

from __future__ import annotations

from llmchatbot.clock import Clock
from llmchatbot.config import AuthSettings
from llmchatbot.database.pool import Database
from llmchatbot.security import CommonPasswords, PasswordHasher, TokenKeys
from llmchatbot.services.access_tokens import AccessTokens
from llmchatbot.services.auth import AuthService
from llmchatbot.services.device_sessions import DeviceSessionService
from llmchatbot.services.rate_limits import Attempts, Counters
from llmchatbot.services.users import UserService
from llmchatbot.streaming.wakeups import WakeUps


class Accounts:
    """`settings.jwt_secret` must be set: nothing here invents one."""

    def __init__(
        self,
        *,
        db: Database,
        wakeups: WakeUps,
        clock: Clock,
        settings: AuthSettings,
        hasher: PasswordHasher,
        counters: Counters,
    ) -> None:
        keys = TokenKeys.of(settings.jwt_secret)
        self._hasher = hasher
        self._access_tokens = AccessTokens(db=db, wakeups=wakeups, keys=keys, clock=clock, settings=settings)
        self.sessions = DeviceSessionService(
            db=db, wakeups=wakeups, access_tokens=self._access_tokens, keys=keys, clock=clock, settings=settings
        )
        self.auth = AuthService(
            db=db,
            sessions=self.sessions,
            access_tokens=self._access_tokens,
            hasher=hasher,
            common_passwords=CommonPasswords(),
            attempts=Attempts(counters, clock),
            keys=keys,
            clock=clock,
            settings=settings,
        )
        self.users = UserService(db=db)

    def close(self) -> None:
        """Ends the hasher's threads, too; does not wait for a hash that is being made."""
        self._access_tokens.close()
        self._hasher.close()
