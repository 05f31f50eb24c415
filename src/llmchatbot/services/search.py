"""Full-text search in one's own chats: finding is the index's business, showing the hits is done here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from uuid import UUID

from llmchatbot.database.pool import Database
from llmchatbot.models.chats import Page
from llmchatbot.models.search import HIT_END, HIT_START, SearchHit, SearchKey
from llmchatbot.repositories import search
from llmchatbot.repositories.search import Found

# The same scripts as in the function search_terms of the first migration: they write no spaces between words.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# Marks that belong to the letter before them; Python does not count them as parts of words.
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
)
_RUN = re.compile(f"[{_SPACELESS}]+")
_TOKEN = re.compile(f"[{_SPACELESS}]+|(?:(?![{_SPACELESS}_])[\\w{_MARKS}])+")
_NOT_SHOWN = re.compile(r"[\x00-\x20\x7f]+")


class SearchService:
    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def search(
        self, user_id: UUID, question: str, *, after: SearchKey | None, limit: int
    ) -> tuple[Page[SearchHit], SearchKey | None]:
        """Hits that have all words of `question`, the last one as a prefix; archived chats too. And where to go on."""
        marker = Marker(question)
        found = await search.search(self._database, user_id, question, marker.needles, after=after, limit=limit + 1)
        page = Page.of(found, limit)
        last = page.items[-1] if page.more else None
        key = SearchKey(last.created_at, last.message_id or last.chat_id) if last is not None else None
        return Page([_hit(one, marker) for one in page.items], page.more), key


def _hit(found: Found, marker: Marker) -> SearchHit:
    return SearchHit(*found[:8], marker.snippet(found.excerpt, found.starts_inside, found.ends_inside))


class Marker:
    """Marks in a text what the index found by."""

    def __init__(self, question: str) -> None:
        words = question.split()
        self._exact = {token for word in words[:-1] for token in _tokens(word)}
        # A word with a hyphen or the like is several words of the index; all of them may go on.
        self._open = tuple(_tokens(words[-1])) if words else ()
        runs = {token for word in words for token in _tokens(word) if _RUN.match(token)}
        self._runs = re.compile("|".join(sorted(map(re.escape, runs), key=len, reverse=True))) if runs else None

    @property
    def needles(self) -> Sequence[str]:
        """What to look for in a text in lower case; never empty, for a window must be cut somewhere."""
        return [*self._exact, *self._open] or [" "]

    def snippet(self, excerpt: str, starts_inside: bool, ends_inside: bool) -> str:
        """One line of plain text with its hits marked; cut at a space if there is one near, with an ellipsis."""
        text = excerpt
        if starts_inside and 0 <= (space := text.find(" ")) < 30:
            text = text[space + 1 :]
        if ends_inside and (space := text.rfind(" ")) > len(text) - 30:
            text = text[: max(space, 0)]
        marked = _TOKEN.sub(self._mark, _NOT_SHOWN.sub(" ", text).strip())
        return f"{'…' if starts_inside else ''}{marked}{'…' if ends_inside else ''}"

    def _mark(self, found: re.Match[str]) -> str:
        text = found[0]
        if _RUN.match(text):
            return self._runs.sub(rf"{HIT_START}\g<0>{HIT_END}", text) if self._runs is not None else text
        word = _folded(text)
        if word in self._exact or (self._open and word.startswith(self._open)):
            return f"{HIT_START}{text}{HIT_END}"
        return text


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(_folded(text))


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()
