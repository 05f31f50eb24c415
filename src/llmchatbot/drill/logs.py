"""What the logs of the nodes say of a plan: a traceback is a fault of ours, whatever a client saw of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from llmchatbot.drill.outcome import Outcome

_TIMESTAMP = 24
_LOST_TASK = re.compile(r"^.*(?:Task was destroyed|never retrieved).*$", re.MULTILINE)


def check(outcome: Outcome, node: str, log: str) -> None:
    found = Counter(match[0] for match in _LOST_TASK.finditer(log))
    found.update(_errors(log.splitlines()))
    for what, times in found.items():
        outcome.violate(f"{node} logged {times} times: {what[:500]}")


def _errors(lines: list[str]) -> Iterator[str]:
    """Each traceback as the line that announced it and the last error of its chain."""
    said = error = ""
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last):"):
            inside = True
        elif inside and line and not line[0].isspace():
            error, inside = line, False
        elif line[:4].isdigit():
            if error:
                yield f"{said} … {error}"
            said, error = line[_TIMESTAMP:], ""
    if error:
        yield f"{said} … {error}"
