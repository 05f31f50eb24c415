"""People and guests."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `users` without its secrets. `version` rises with each change of the profile."""

    id: UUID
    email: str
    username: str
    is_active: bool
    is_guest: bool
    expires_at: datetime | None
    version: int
    created_at: datetime
    last_login_at: datetime | None


class LoginCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """What a log-in needs to know of an account before the password was right."""

    id: UUID
    password_hash: str | None
    is_active: bool
    # Somebody has logged in to this account from this address before.
    address_known: bool
