"""The shape that the pieces of one answer share: for most vendors nothing but the text changes.

A chunk of some 300 bytes repeats id, model and a dozen members more for every word, and some end with a filler of
random length that hides the word's. Once the shape is known, a few comparisons say that a piece has it too, and the
text is what stands in its place: a quarter of what cutting out the event and parsing its JSON costs.
"""

from __future__ import annotations

from collections.abc import Callable

from llmchatbot.llm.text import common_length

Parse = Callable[[bytes], str | None]
"""The text of a piece that is one plain record, else None; remembers nothing."""

_LESSONS = 64
"""Of one answer: where something else changes all the time, learning would cost more than it gains."""
_NOTHING = b'\n"'
"""Stands behind no text: that begins with a quote, and where there is none a single byte is compared."""
_TEXT, _FILLER = ".", b"aZ09"
"""What a proof puts in their place."""


class PieceShape:
    """`before` text `middle`, or `before` text `middle` filler `after`, where text and filler are JSON strings."""

    __slots__ = ("_after", "_before", "_lessons", "_middle", "_middle_size", "_start")

    def __init__(self) -> None:
        self._before, self._middle, self._after = b"", _NOTHING, b""
        self._start, self._middle_size = 0, len(_NOTHING)
        self._lessons = _LESSONS

    def text_of(self, piece: bytes) -> str | None:
        """The text of a piece of this shape; None for any other. Runs once per token."""
        start = self._start
        end = piece.find(b'"', start)
        if piece[:start] != self._before:
            return None
        after = self._after
        if not after:
            if piece[end:] != self._middle:
                return None
        else:
            filler = end + self._middle_size
            rest = -len(after)
            if piece[end:filler] != self._middle or piece[rest:] != after or not piece[filler:rest].isalnum():
                return None
        try:
            text = piece[start:end].decode()
        except UnicodeDecodeError:
            return None
        # What is not printable stands in no JSON string as it is, nor in one line; a backslash means something else.
        return text if text and text.isprintable() and "\\" not in text else None

    def learn(self, piece: bytes, text: str, parse: Parse) -> None:
        """Take on the shape of `piece`, in which `parse` found `text`.

        It is proved: in a piece of this shape with another text, `parse` finds the other text.
        """
        literal = f'"{text}"'.encode("utf-8", "surrogatepass")
        at = piece.rfind(literal)
        if not text or at < 0 or not self._lessons:
            # Nothing there, or written with escapes.
            return
        start, end = at + 1, at + len(literal) - 1
        before, rest = piece[:start], piece[end:]
        if before == self._before and self._continues(rest):
            # Known already; something else came in between.
            return
        self._lessons -= 1
        middle, after = rest, b""
        if before == self._before and not self._after:
            middle, after = _around_filler(self._middle, rest)
        if parse(before + _TEXT.encode() + middle + (_FILLER if after else b"") + after) == _TEXT:
            self._before, self._middle, self._after = before, middle, after
            self._start, self._middle_size = start, len(middle)

    def _continues(self, rest: bytes) -> bool:
        if not self._after:
            return rest == self._middle
        return rest.startswith(self._middle) and rest.endswith(self._after)


def _around_filler(known: bytes, other: bytes) -> tuple[bytes, bytes]:
    """What both have before and behind the one string in which they differ; `other` and nothing if they do not."""
    middle = known[: common_length(known, other)]
    middle = middle[: middle.rfind(b'"') + 1]
    known, other_rest = known[len(middle) :], other[len(middle) :]
    after = known[len(known) - common_length(known[::-1], other_rest[::-1]) :]
    after = after[after.find(b'"') :]
    return (middle, after) if middle.endswith(b':"') and after.startswith(b'"') else (other, b"")
