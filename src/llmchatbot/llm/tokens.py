"""How many tokens a text is, without any tokenizer: bytes of UTF-8 per token, learnt per model from its provider.

Bytes, not characters: a token of any modern tokenizer is about as many bytes in Russian or Chinese as in English, while
the characters differ three times.
"""

from __future__ import annotations

import math

FIRST_GUESS = 3.5
"""Bytes per token before anything was learnt: on the safe side of English prose (4 to 5) and near that of code (3)."""
PER_MESSAGE = 4
"""Tokens that a chat template puts around a message."""

_WEIGHT = 0.2
_MIN_BYTES = 200
_RANGE = (1.0, 12.0)


class TokenEstimator:
    """Learns from each answer's usage, by an exponentially weighted mean. In memory: a guess needs no database."""

    def __init__(self) -> None:
        self._bytes_per_token: dict[str, float] = {}

    def bytes_per_token(self, model: str) -> float:
        """The present guess for `model`, our public name."""
        return self._bytes_per_token.get(model, FIRST_GUESS)

    def of_bytes(self, model: str, size: int) -> int:
        """Tokens of a text of `size` bytes; 0 for none, else at least 1."""
        return math.ceil(size / self.bytes_per_token(model)) if size else 0

    def of_text(self, model: str, text: str) -> int:
        """Tokens of a text."""
        return self.of_bytes(model, utf8_size(text))

    def of_messages(self, model: str, sizes: list[int]) -> int:
        """Tokens of a prompt whose messages have these sizes in bytes."""
        return self.of_bytes(model, sum(sizes)) + PER_MESSAGE * len(sizes)

    def observe(self, model: str, sizes: list[int], input_tokens: int) -> None:
        """Learn from a provider's count for a prompt whose messages had these sizes. Short prompts teach nothing."""
        tokens = input_tokens - PER_MESSAGE * len(sizes)
        size = sum(sizes)
        if size < _MIN_BYTES or tokens < 1:
            return
        low, high = _RANGE
        seen = min(high, max(low, size / tokens))
        known = self._bytes_per_token.get(model)
        self._bytes_per_token[model] = seen if known is None else known + _WEIGHT * (seen - known)


def utf8_size(text: str) -> int:
    """Bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
