"""What a search finds."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import msgspec

# Around each hit in a snippet. Control characters, because any other mark could stand in a message too.
HIT_START = "\x02"
HIT_END = "\x03"


class SearchHit(msgspec.Struct, frozen=True, gc=False):
    """A title or a message in which all words of a question stand.

    `snippet` is plain text; each hit stands between U+0002 and U+0003.
    """

    kind: Literal["chat", "message"]
    chat_id: UUID
    title: str
    is_archived: bool
    message_id: UUID | None
    role: Literal["user", "assistant", "system"] | None
    sequence_number: int | None
    created_at: datetime
    snippet: str


class SearchKey(NamedTuple):
    """Where a page of hits ended: hits are sorted by these, newest first."""

    created_at: datetime
    id: UUID
