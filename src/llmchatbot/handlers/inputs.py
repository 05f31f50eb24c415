"""What every body that comes in has in common: unknown fields are refused, text is storable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from llmchatbot.errors import FieldError, UnprocessableInput

# NUL cannot be stored by PostgreSQL, lone surrogates cannot be encoded: both must stop here, not as a 500 below.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def require_storable(field: str, text: str) -> str:
    """Raises UnprocessableInput naming `field` when `text` holds NUL or a lone surrogate (protocol §8)."""
    if _UNSTORABLE.search(text):
        raise UnprocessableInput(
            f"'{field}' contains a NUL character or a lone surrogate; remove it.",
            errors=[FieldError(field, "must not contain NUL or lone surrogates")],
        )
    return text


class Input(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of all request bodies."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            for text in _texts(getattr(self, field)):
                require_storable(field, text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _texts(getattr(value, field))
