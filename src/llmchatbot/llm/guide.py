"""The guide: what answers when no model is connected. It finds passages of our own documentation; it is no language
model and says so in its first line. Deterministic, in this process, without a network.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib import resources

import msgspec

from llmchatbot.llm.events import Event, Finished, TextDelta, Usage
from llmchatbot.llm.pace import paced
from llmchatbot.llm.port import Prompt, Sink

SUPPORTED: frozenset[str] = frozenset()

_WORD = re.compile(r"[^\W_]+")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_PIECE = re.compile(r"\S+\s*|\s+")
_STEM, _CYRILLIC_STEM = 5, 4
"""Words count as equal when their first letters are: crude, and good enough. Russian endings are longer."""
_SHOWN = 2
_K1, _B = 1.4, 0.7
_TITLE_WEIGHT = 3


class Passage(msgspec.Struct, frozen=True):
    """One section of one page."""

    title: str
    body: str
    words: dict[str, int]
    length: int


def tokens_of(text: str) -> list[str]:
    """Words without regard to case and ending; digits and letters of any script."""
    words = [word for word in _WORD.findall(text.casefold()) if len(word) > 1]
    return [word[: _CYRILLIC_STEM if _CYRILLIC.match(word) else _STEM] for word in words]


def language_of(text: str) -> str:
    """`ru` where there is any Cyrillic letter, else `en`."""
    return "ru" if _CYRILLIC.search(text) else "en"


class Page(msgspec.Struct, frozen=True):
    """All that the guide knows in one language. The first paragraphs of the file are what it says by itself."""

    opening: str
    nothing_found: str
    ignored: frozenset[str]
    passages: list[Passage]


def page_of(text: str) -> Page:
    """Cut a Markdown page at its `## ` headings."""
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    opening, nothing_found, ignored = head.strip().split("\n\n")
    empty_words = frozenset(_WORD.findall(ignored.partition(":")[2].casefold()))
    passages = []
    for section in sections:
        title, _, body = section.partition("\n")
        words = Counter(tokens_of(body))
        for word in tokens_of(title):
            words[word] += _TITLE_WEIGHT
        passages.append(Passage(title.strip(), body.strip(), dict(words), sum(words.values())))
    return Page(opening, nothing_found, empty_words, passages)


def read_page(language: str) -> Page:
    """The page of one language, `guide_docs/guide.LANGUAGE.md` in the package."""
    file = resources.files("llmchatbot.llm") / "guide_docs" / f"guide.{language}.md"
    return page_of(file.read_text(encoding="utf-8"))


def best(passages: list[Passage], question: str, count: int = _SHOWN) -> list[Passage]:
    """The passages that fit `question`, best first, by BM25 (Robertson and Zaragoza 2009); ties in page order."""
    wanted = set(tokens_of(question))
    if not passages or not wanted:
        return []
    average = sum(passage.length for passage in passages) / len(passages) or 1.0
    frequency = Counter(word for passage in passages for word in wanted & passage.words.keys())
    scored = []
    for passage in passages:
        score = 0.0
        for word in wanted & passage.words.keys():
            rarity = math.log(1 + (len(passages) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            count_here = passage.words[word]
            score += rarity * count_here * (_K1 + 1) / (count_here + _K1 * (1 - _B + _B * passage.length / average))
        if score > 0:
            scored.append((score, passage))
    scored.sort(key=lambda pair: -pair[0])
    # A second passage only where it fits nearly as well: a long answer to a short question helps nobody.
    return [passage for score, passage in scored[:count] if score >= 0.6 * scored[0][0]]


class GuideModel:
    """Answers from the documentation."""

    def __init__(self, *, rate: float = 60.0) -> None:
        """`rate` in pieces a second; 0 for tests."""
        self._rate = rate
        self._pages: dict[str, Page] = {}

    def answer(self, question: str) -> str:
        """The whole answer to `question`; the same for the same question."""
        language = language_of(question)
        page = self._pages.get(language)
        if page is None:
            page = self._pages[language] = read_page(language)
        found = best(page.passages, self._without(page.ignored, question))
        parts = [page.opening, *(f"**{passage.title}**\n\n{passage.body}" for passage in found)]
        if not found:
            parts.append(f"{page.nothing_found} {', '.join(passage.title for passage in page.passages)}.")
        return "\n\n".join(parts)

    @staticmethod
    def _without(ignored: frozenset[str], question: str) -> str:
        words = [word for word in _WORD.findall(question.casefold()) if word not in ignored]
        return " ".join(words) or question

    async def stream(self, prompt: Prompt, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        """See `port.Model.stream`."""
        question = next((message.content for message in reversed(prompt.messages) if message.role == "user"), "")
        text = self.answer(question)
        pieces = _PIECE.findall(text.removeprefix(prompt.prefix))
        async with aclosing(paced(pieces, self._rate)) as batches:
            async for batch in batches:
                yield [TextDelta(piece) for piece in batch]
        yield [Usage(len(tokens_of(question)), len(pieces)), Finished("stop")]

    async def health(self) -> bool:
        """Always."""
        return True

    async def aclose(self) -> None:
        """Holds nothing."""
