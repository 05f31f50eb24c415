"""What every body has in common: it is JSON and not too deep, unknown fields are refused, its text is storable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from litestar import Request

from llmchatbot.errors import FieldError, MalformedBody, UnprocessableInput, UnsupportedMediaType

_DEEPEST = 32
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
# A high half without a low one behind it, or a low one without a high one before it.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)

# A text of spaces alone says nothing: no model can answer it, and no list can show it.
VISIBLE = r"\S"

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


class JsonRequest(Request[Any, Any, Any]):
    """Reads bodies more strictly than the framework, and says what is wrong with one."""

    async def json(self) -> Any:
        """Raises UnsupportedMediaType, MalformedBody, UnprocessableInput."""
        if not _JSON.match(self.headers.get("content-type", "")):
            raise UnsupportedMediaType
        return decode_body(await self.body())


def decode_body(body: bytes) -> Any:
    """Raises MalformedBody for what is no JSON or deeper than 32; UnprocessableInput for a lone surrogate."""
    try:
        decoded = msgspec.json.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.ValidationError as error:
        raise _malformed("contains a number that is out of range") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _LONE_SURROGATE.search(body):
            raise UnprocessableInput(
                "The body contains a lone surrogate; remove it.",
                errors=[FieldError("body", "must not contain lone surrogates")],
            ) from error
        raise _malformed("is not valid JSON") from error
    # Counting costs nothing; only a body that could be too deep is walked.
    if body.count(b"[") + body.count(b"{") > _DEEPEST and _is_deeper(decoded, _DEEPEST):
        raise _too_deep()
    return decoded


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(value, dict | list) for value in level)


def _too_deep() -> MalformedBody:
    return _malformed(f"is nested deeper than {_DEEPEST}")


def _malformed(what: str) -> MalformedBody:
    return MalformedBody(f"The body {what}.", errors=[FieldError("body", what)])


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
