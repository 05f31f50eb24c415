"""The language that the scripted models obey: `[[rate=50 tokens=100 fault=cut@20]]` anywhere in the user's message.

    rate=50        tokens a second; 0: as fast as it goes
    tokens=100     length of the answer
    first=0.2      seconds before the first token
    seed=7         another text of the same shape
    text='a b c'   this text instead of the numbered words, cut at spaces
    reasoning=5    so many pieces of reasoning first
    stamp=1        every token carries the time it was made, `w17@1732310000.123456 `
    usage=0        no usage at the end
    fails=2        the first two calls with this script fail, then it works
    fault=KIND@N   KIND after N tokens (0 when left out): refuse, html, status:503, stall, cut, garbage, error,
                   hugeline, noend (the whole text, but no end record), utf8split (each byte in a piece of its own)

The text is a function of script and position alone, so an answer continued from any prefix equals the whole one.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator

import msgspec

from llmchatbot.errors import ModelRefused
from llmchatbot.llm.port import PromptMessage

_SCRIPT = re.compile(r"\[\[([^\[\]]*)\]\]")
_FAULT = re.compile(r"(refuse|html|status:\d{3}|stall|cut|garbage|error|hugeline|noend|utf8split)(?:@(\d{1,9}))?")
_DECORATION = ("", "", "é", "", "世界", "", "ы", "😀", "", "\u2028", "", "ß", "")


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer, how fast, and what goes wrong."""

    rate: float = 0.0
    tokens: int = 64
    first: float = 0.0
    seed: int = 0
    text: str = ""
    reasoning: int = 0
    stamp: bool = False
    usage: bool = True
    fails: int = 0
    fault: str = ""
    fault_at: int = 0

    def pieces(self) -> list[str]:
        """All tokens of the answer. Their concatenation is the answer."""
        if self.text:
            return re.findall(r"\S+\s*|\s+", self.text)
        return [self.piece(number) for number in range(self.tokens)]

    def piece(self, number: int) -> str:
        """Token `number`: its number, and now and then something that is not ASCII."""
        decoration = _DECORATION[(number + self.seed) % len(_DECORATION)]
        mark = f"s{self.seed}" if self.seed else ""
        return f"w{number}{mark}{decoration} "

    def remaining(self, prefix: str) -> Iterator[str]:
        """The tokens after `prefix`, which may end within one."""
        skip = len(prefix)
        for piece in self.pieces():
            if skip >= len(piece):
                skip -= len(piece)
                continue
            yield piece[skip:]
            skip = 0

    def stamped(self, piece: str) -> str:
        """`piece` with the time of day in seconds, when asked for."""
        return f"{piece.rstrip()}@{time.time():.6f} " if self.stamp else piece


def script_of(messages: tuple[PromptMessage, ...], default: Script) -> Script:
    """The script in the newest user message, over `default`. Raises ModelRefused for words it does not know."""
    last = next((message.content for message in reversed(messages) if message.role == "user"), "")
    found = _SCRIPT.search(last)
    return parse(found[1], default) if found else default


def parse(text: str, default: Script) -> Script:
    """Read `key=value …`. Raises ModelRefused naming the word that is wrong."""
    values: dict[str, object] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ModelRefused("The script has an open quote.") from error
    for word in words:
        key, _, value = word.partition("=")
        try:
            values.update(_value(key, value))
        except ValueError as error:
            raise ModelRefused(f"The script's word '{key[:40]}' is not understood.") from error
    return msgspec.structs.replace(default, **values)


def _value(key: str, value: str) -> dict[str, object]:
    if key == "fault":
        match = _FAULT.fullmatch(value)
        if match is None:
            raise ValueError(key)
        return {"fault": match[1], "fault_at": int(match[2] or 0)}
    if key in {"rate", "first"}:
        return {key: min(float(value), 1e6)}
    if key in {"tokens", "seed", "reasoning", "fails"}:
        return {key: min(int(value), 1_000_000)}
    if key in {"stamp", "usage"}:
        return {key: value not in {"0", "no", "false"}}
    if key == "text":
        return {key: value}
    raise ValueError(key)
