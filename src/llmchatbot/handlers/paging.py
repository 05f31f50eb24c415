"""Keyset paging: opaque cursors, and the `Link` header that carries the next one (RFC 8288).

A cursor holds where a page ended, not how many rows came before: what is inserted, changed or deleted meanwhile neither
doubles nor hides another row. It grants nothing, so it needs no signature.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote_plus
from uuid import UUID

from litestar.params import QueryParameter

from llmchatbot.errors import FieldError, MalformedCursor

DEFAULT_LIMIT = 50
Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many at the most.", required=False)]
CursorText = Annotated[
    str | None,
    QueryParameter(max_length=64, description="From the `Link` header of the page before.", required=False),
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# A first byte tells the lists apart: a cursor of one is no cursor of another.
_MOMENT = struct.Struct(">cq16s")
_NUMBER = struct.Struct(">ci")
CHATS, HITS, MESSAGES = b"c", b"h", b"m"


def encode_moment(kind: bytes, moment: datetime, identifier: UUID) -> str:
    """To the microsecond, as PostgreSQL keeps it."""
    return _encode(_MOMENT.pack(kind, (moment - _EPOCH) // _MICROSECOND, identifier.bytes))


def decode_moment(kind: bytes, text: str) -> tuple[datetime, UUID]:
    """Raises MalformedCursor for whatever `encode_moment` did not write."""
    microseconds, identifier = _decode(_MOMENT, kind, text)
    try:
        return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identifier)
    except OverflowError as error:
        raise _malformed() from error


def encode_number(kind: bytes, number: int) -> str:
    return _encode(_NUMBER.pack(kind, number))


def decode_number(kind: bytes, text: str) -> int:
    """Raises MalformedCursor for whatever `encode_number` did not write."""
    (number,) = _decode(_NUMBER, kind, text)
    return int(number)


def next_link(path: str, parameters: Mapping[str, str | int]) -> dict[str, str]:
    """Relative, so that it holds behind any proxy."""
    query = "&".join([f"{name}={quote_plus(str(value))}" for name, value in parameters.items()])
    return {"Link": f'<{path}?{query}>; rel="next"'}


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(form: struct.Struct, kind: bytes, text: str) -> tuple[Any, ...]:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        found, *values = form.unpack(data)
    except (struct.error, ValueError) as error:
        raise _malformed() from error
    # base64 is read leniently, so one place would have many names without the second question.
    if found != kind or _encode(data) != text:
        raise _malformed()
    return tuple(values)


def _malformed() -> MalformedCursor:
    return MalformedCursor(errors=[FieldError("cursor", "is not one of ours")])
