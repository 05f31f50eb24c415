"""Text and JSON from a model, made safe: no NUL, no lone surrogate, no broken UTF-8 gets past this file.

PostgreSQL refuses NUL, and a lone surrogate cannot be encoded at all; both become U+FFFD (protocol §8). A surrogate
pair that the provider cut in two is joined again, because some cut their JSON strings between two UTF-16 units.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from llmchatbot.errors import ModelProtocolError

T = TypeVar("T")

REPLACEMENT = "\ufffd"


class TextCleaner:
    """Cleans one channel of text (answer, reasoning, the arguments of one tool call), delta by delta."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = ""
        """Half a surrogate pair whose other half has not come yet."""

    def feed(self, text: str) -> str:
        """Return what can be shown now; a high surrogate at the end waits for its other half."""
        if not self.waiting:
            if text.isascii():
                return text.replace("\x00", REPLACEMENT) if "\x00" in text else text
            if not _has_surrogate(text):
                return text.replace("\x00", REPLACEMENT)
        text = self.waiting + text
        self.waiting = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            self.waiting, text = text[-1], text[:-1]
        return clean(text)

    def flush(self) -> str:
        """Return what still waits: U+FFFD for a half that never got its other half, else nothing."""
        pending, self.waiting = self.waiting, ""
        return REPLACEMENT if pending else ""


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def clean(text: str) -> str:
    """Join surrogate pairs, replace lone ones and NUL by U+FFFD."""
    if _has_surrogate(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\x00", REPLACEMENT)


def common_length(first: str | bytes, second: str | bytes) -> int:
    """How many characters, or bytes, both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def decode_json(data: bytes, decoder: msgspec.json.Decoder[T], kind: type[T] | Any) -> T:
    """Decode one JSON document of an upstream.

    The second, slow way is for what msgspec refuses and browsers accept: broken UTF-8 and lone surrogates. Raises
    ModelProtocolError for everything else; its text never repeats the data.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        first = error
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace")), kind)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise ModelProtocolError(
            f"The model's service sent {len(data)} bytes that are not the JSON agreed on."
        ) from first
