"""Messages: one row each, a tree by `parent_id`, in the order of `sequence_number`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A message on the wire. Not keyword-only: a list makes these straight from rows, column by column.

    `content` of a message whose `status` is `streaming` is the text so far.
    """

    id: UUID
    role: Literal["user", "assistant", "system"]
    content: str
    tokens: int
    is_incomplete: bool
    created_at: datetime
    sequence_number: int
    parent_id: UUID | None
    status: Literal["streaming", "completed", "stopped", "failed", "interrupted"]
    model: str
    generation_id: UUID | None
    # Left out where there is none, as the only field with a default.
    reasoning: str = ""
