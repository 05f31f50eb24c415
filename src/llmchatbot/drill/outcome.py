"""What one plan has done and found: counts, times with their limits, and every violation in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

_SHOWN_VIOLATIONS = 20


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: a value that was measured, never one between two. Zero of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Outcome:
    """Filled while a plan runs, printed and judged at its end."""

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.limits: dict[str, float] = {}
        self.violations: list[str] = []
        self.skipped = ""
        self.seconds = 0.0
        self._suppressed = 0

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def limit(self, what: str, seconds: float) -> None:
        """The 99th percentile of `what` must not lie above this."""
        self.limits[what] = seconds

    def time(self, what: str, seconds: float) -> None:
        self.times[what].append(seconds)

    def violate(self, what: str) -> None:
        """Never the text of a message: the words end in logs and reports."""
        if len(self.violations) < _SHOWN_VIOLATIONS:
            self.violations.append(what)
        else:
            self._suppressed += 1

    def check(self, good: bool, what: str) -> bool:
        if not good:
            self.violate(what)
        return good

    def judge_times(self) -> None:
        """Limits that were passed become violations."""
        for what, limit in self.limits.items():
            measured = quantile(self.times[what], 0.99)
            self.check(measured <= limit, f"{what}: p99 {measured:.3f} s is above {limit:.3f} s")

    @property
    def failed(self) -> int:
        return len(self.violations) + self._suppressed
