"""Order statistics. Plain, exact, no interpolation: every figure shown was really measured."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.client.plan import Spread


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `ordered` (ascending) do not exceed; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number of them the mean of the two in the middle."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread_of(values: Sequence[float], *, scale: float = 1.0) -> Spread:
    """Quantiles of `values` times `scale`."""
    ordered = sorted(values)
    return Spread(
        p50=round(quantile(ordered, 0.5) * scale, 3),
        p95=round(quantile(ordered, 0.95) * scale, 3),
        p99=round(quantile(ordered, 0.99) * scale, 3),
        worst=round(ordered[-1] * scale, 3) if ordered else 0.0,
        count=len(ordered),
    )
