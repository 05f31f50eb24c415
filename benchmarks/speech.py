"""What the scripted model says, and when it said it.

Words of natural frequencies: a search index, a compressor and a cache meet here what they meet in the field, some 300
different words among 500. The words themselves are made up. Each answer goes its own way through one long text, and its
first token is its number, so whoever reads it knows what must follow: what is lost, doubled or swapped shows at once.

The moments stand beside the text, in memory that the source and the readers of one machine share: microseconds of the
monotonic clock modulo 2**32. So every delay is known, through however many relays.
"""

from __future__ import annotations

import mmap
import random
import time
from pathlib import Path

_VOCABULARY = 5_000
_LENGTH = 8_192
_STRIDE = 611
"""Words between the beginnings of two answers that follow each other; odd, so that it takes long to come around."""

MASK = 0xFFFFFFFF


def _words() -> list[str]:
    """Made-up words, the most frequent ones first and shortest."""
    chance = random.Random(6)
    consonants = (*"bcdfghklmnprstvw", "st", "tr", "pl", "ch")
    vowels = (*"aeiou", "ea", "ou")
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        syllables = 1 if len(words) < 40 else 2 if len(words) < 900 else 3
        stem = "".join(chance.choice(consonants) + chance.choice(vowels) for _ in range(syllables))
        words[stem + chance.choice(("", "n", "r", "s", "t"))] = None
    return list(words)


def _text() -> list[bytes]:
    """Words in the frequencies of natural text (Zipf and Mandelbrot: the r-th one as 1 / (r + 2.7))."""
    chance = random.Random(7)
    weights = [1 / (rank + 2.7) for rank in range(1, _VOCABULARY + 1)]
    return [b" " + word.encode() for word in chance.choices(_words(), weights, k=_LENGTH)]


TEXT = _text()
_TWICE = TEXT + TEXT


def token(number: int, index: int) -> bytes:
    """Token `index` of answer `number`."""
    return b" a%d" % number if index == 0 else TEXT[(number * _STRIDE + index) % _LENGTH]


def answer(number: int, tokens: int) -> bytes:
    """The whole text of answer `number`; it may be as long as the text that all of them go through."""
    begin = (number * _STRIDE + 1) % _LENGTH
    return token(number, 0) + b"".join(_TWICE[begin : begin + tokens - 1]) if tokens else b""


def now_us() -> int:
    """The clock of the stamps."""
    return time.monotonic_ns() // 1000 & MASK


class Stamps:
    """When each token of the last answers was sent, in a file that source and readers map."""

    _ANSWERS = 8_192
    _TOKENS = 4_096

    def __init__(self, path: Path) -> None:
        """The file is sparse: only what is written takes room."""
        with path.open("a+b") as file:
            file.truncate(self._ANSWERS * self._TOKENS * 4)
            self._map = mmap.mmap(file.fileno(), 0)
        self._cells = memoryview(self._map).cast("I")

    def set(self, number: int, index: int) -> None:
        """Token `index` of answer `number` is sent now."""
        self._cells[number % self._ANSWERS * self._TOKENS + index % self._TOKENS] = now_us()

    def of(self, number: int, first: int, count: int) -> memoryview:
        """The moments of `count` tokens from `first` on."""
        start = number % self._ANSWERS * self._TOKENS + first % self._TOKENS
        return self._cells[start : start + count]

    def close(self) -> None:
        self._cells.release()
        self._map.close()
