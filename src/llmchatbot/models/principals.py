"""Who is asking."""

from __future__ import annotations

from uuid import UUID

import msgspec


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A person on one device, established by `services.auth.authenticate` and by nothing else."""

    user_id: UUID
    session_id: UUID
