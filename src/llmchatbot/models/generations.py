"""One answer being made, and what its makers and readers know of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.errors import FieldError, MalformedCursor


class Status(StrEnum):
    """`queued → running → completed | stopped | failed | interrupted`; the last four never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def terminal(self) -> bool:
        return self not in {Status.QUEUED, Status.RUNNING}


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `generations`."""

    id: UUID
    user_id: UUID
    chat_id: UUID
    message_id: UUID
    user_message_id: UUID
    status: Status
    epoch: int
    owner_node: UUID | None
    model: str
    parameters: dict[str, Any]
    prefix: str
    derived_key: bool
    last_seq: int | None
    finish_reason: str | None
    error_code: str | None
    stop_requested_at: datetime | None
    created_at: datetime | None
    finished_at: datetime | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = True


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a stop left behind; the same for everybody who asks (protocol §6)."""

    status: str
    last_event_id: str
    characters: int
    usage: Usage


class Cursor(msgspec.Struct, frozen=True):
    """`<generation>.<n>`: everything up to and including event n has been seen."""

    generation_id: UUID
    seq: int

    def __str__(self) -> str:
        return f"{self.generation_id}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises MalformedCursor for anything that we never wrote."""
        identifier, dot, number = text.partition(".")
        if not dot or len(identifier) != 36 or not (number.isascii() and number.isdigit()) or len(number) > 9:
            raise _malformed()
        try:
            return cls(UUID(identifier), int(number))
        except ValueError as error:
            raise _malformed() from error


def _malformed() -> MalformedCursor:
    return MalformedCursor(errors=[FieldError("last_event_id", "is not one of ours")])
