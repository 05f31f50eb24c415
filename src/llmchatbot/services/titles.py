"""Titles of chats: from the question's first words at once, or by the model after the first answer."""

from __future__ import annotations

_LONGEST = 60


def title_of(text: str) -> str:
    """The first line, cut at a word, at most 60 characters; empty when there is nothing to see."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= _LONGEST:
        return line
    cut = line[:_LONGEST]
    head, space, _ = cut.rpartition(" ")
    return f"{(head if space and len(head) > _LONGEST // 2 else cut).rstrip()}…"
