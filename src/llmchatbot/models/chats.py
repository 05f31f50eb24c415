"""Chats: what a person sees of one, and how its answers are to be made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec

T = TypeVar("T")

DEFAULT_TITLE = "New Chat"
Title = Annotated[str, msgspec.Meta(max_length=255)]
ModelName = Annotated[str, msgspec.Meta(max_length=255)]
StopSequence = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class ChatParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How answers are made, per chat and per message; what is not set is left to the model."""

    system_prompt: Annotated[str, msgspec.Meta(max_length=32_000)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    stop: Annotated[tuple[StopSequence, ...], msgspec.Meta(max_length=4)] = ()
    seed: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None


NO_PARAMETERS = ChatParameters()


class Chat(msgspec.Struct, frozen=True, gc=False):
    """A chat on the wire. Not keyword-only: a list makes these straight from rows, column by column."""

    id: UUID
    title: str
    model_used: str
    created_at: datetime
    updated_at: datetime
    is_archived: bool
    message_count: int
    parameters: ChatParameters


class OwnedChat(NamedTuple):
    """A chat with what only its own process needs: `version` counts the changes that an `If-Match` is about."""

    chat: Chat
    version: int


class ChatKey(NamedTuple):
    """Where a page of chats ended: lists are sorted by these, newest first."""

    updated_at: datetime
    id: UUID


class ChatChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What a person changes of a chat; None leaves it as it is."""

    title: str | None = None
    model_used: str | None = None
    parameters: ChatParameters | None = None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list, and whether there is more."""

    items: list[T]
    more: bool

    @classmethod
    def of(cls, items: list[T], limit: int) -> Page[T]:
        """`items` were asked for with one more than `limit`: the way to know without counting."""
        return cls(items[:limit], len(items) > limit)
