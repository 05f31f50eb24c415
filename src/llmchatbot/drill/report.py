"""What a person sees: a bar while a plan runs, a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from llmchatbot.drill.outcome import Outcome, quantile

_BAR = 30


class Progress:
    """A bar on one line of a terminal; nothing where there is none."""

    def __init__(self, stream: TextIO, plan: str) -> None:
        self._stream = stream
        self._plan = plan
        self._shown = stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self._shown and total:
            filled = min(_BAR, _BAR * done // total)
            self._stream.write(f"\r{self._plan:<18} [{'#' * filled:<{_BAR}}] {done}/{total} ")
            self._stream.flush()

    def clear(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * 79 + "\r")
            self._stream.flush()


def line(outcome: Outcome) -> str:
    """One plan in one line."""
    if outcome.skipped:
        return f"skip  {outcome.plan:<18} {outcome.skipped}"
    counts = ", ".join(f"{number} {what}" for what, number in outcome.counts.items() if what != "rules checked")
    verdict = "FAIL" if outcome.failed else "ok"
    return f"{verdict:<5} {outcome.plan:<18} {outcome.seconds:6.1f} s  {counts}"


def table(outcomes: Sequence[Outcome]) -> str:
    """All times of all plans, then every violation."""
    rows = [
        (
            outcome.plan,
            what,
            str(len(values)),
            f"{quantile(values, 0.5):.3f}",
            f"{quantile(values, 0.99):.3f}",
            f"{outcome.limits[what]:.3f}" if what in outcome.limits else "",
        )
        for outcome in outcomes
        for what, values in outcome.times.items()
        if values
    ]
    head = ("plan", "seconds from … to …", "n", "p50", "p99", "limit")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        texts = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(texts + numbers).rstrip())
    for outcome in outcomes:
        if outcome.failed:
            lines.append(f"\n{outcome.plan}: {outcome.failed} violations")
            lines += [f"  {violation}" for violation in outcome.violations]
    return "\n".join(lines)
