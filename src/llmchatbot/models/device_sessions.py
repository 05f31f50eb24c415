"""Devices on which somebody is logged in: families of refresh tokens (protocol §7)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request comes from, as far as that can be believed."""

    address: str
    user_agent: str = ""


class DeviceSession(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `device_sessions`."""

    id: UUID
    user_id: UUID
    user_agent: str
    address: str
    created_at: datetime
    last_used_at: datetime
    idle_expires_at: datetime
    absolute_expires_at: datetime


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is logged in: not revoked, of an active account, and until when at the longest."""

    user_id: UUID
    is_live: bool
    ends_at: datetime


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A device session whose row is locked, so that one rotation at a time looks at its tokens."""

    id: UUID
    user_id: UUID
    is_live: bool
    idle_expires_at: datetime
    ends_at: datetime


class RefreshToken(msgspec.Struct, frozen=True, kw_only=True):
    """One token of a family. `newest_generation` is that of the family's newest token, which is the unused one;
    `quota_began_at` when the first of the latest rotations was that use its quota up, None when there were fewer."""

    generation: int
    rotated_at: datetime | None
    newest_generation: int
    quota_began_at: datetime | None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody holds after a log-in or a refresh. Lives in seconds."""

    user_id: UUID
    session_id: UUID
    access_token: str
    access_expires_in: int
    refresh_token: str
    refresh_expires_in: int
