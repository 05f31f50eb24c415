"""Samples of several rounds become rows: medians, spread, and ratios taken within each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from benchmarks.quantiles import median
from benchmarks.records import Sample


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One subject in one scene over all rounds. Ratios are medians of the ratios of single rounds."""

    scene: str
    subject: str
    rounds: int
    cpu_us: float
    cpu_low: float
    cpu_high: float
    database_us: float
    cores: float
    share: float
    """Delivered of what the sources sent; 0 when the load has no rate."""
    delay_p50: float
    delay_p99: float
    first_token_p50: float
    first_token_p99: float
    latency_p50: float
    latency_p99: float
    per_second: float
    fairness: float
    pss: float
    """Megabytes."""
    errors: int
    incomplete: int
    ratios: dict[str, float]
    """Processor time per unit, divided by that of the named subject."""
    extra: dict[str, float]


def _ratio(mine: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    by_round = {sample.round: sample for sample in theirs}
    values = [
        sample.cpu_us / by_round[sample.round].cpu_us
        for sample in mine
        if sample.round in by_round and by_round[sample.round].cpu_us
    ]
    return round(median(values), 3)


def row_of(samples: Sequence[Sample], others: dict[str, Sequence[Sample]]) -> Row:
    """`samples` are of one subject in one scene; `others` are all subjects of that scene."""

    def mid(value: Callable[[Sample], float]) -> float:
        return round(median([value(sample) for sample in samples]), 3)

    first = samples[0]
    costs = [sample.cpu_us for sample in samples]
    extra_names = sorted({name for sample in samples for name in sample.extra})
    return Row(
        scene=first.scene,
        subject=first.subject,
        rounds=len(samples),
        cpu_us=mid(lambda s: s.cpu_us),
        cpu_low=min(costs),
        cpu_high=max(costs),
        database_us=mid(lambda s: s.database_us),
        cores=mid(lambda s: s.cores),
        share=mid(lambda s: s.units / s.expected if s.expected else 0.0),
        delay_p50=mid(lambda s: s.outcome.delay.p50),
        delay_p99=mid(lambda s: s.outcome.delay.p99),
        first_token_p50=mid(lambda s: s.outcome.first_token.p50),
        first_token_p99=mid(lambda s: s.outcome.first_token.p99),
        latency_p50=mid(lambda s: s.outcome.latency.p50 or s.outcome.recovery.p50),
        latency_p99=mid(lambda s: s.outcome.latency.p99 or s.outcome.recovery.p99),
        per_second=mid(lambda s: s.units / s.seconds),
        fairness=mid(lambda s: s.outcome.fairness),
        pss=mid(lambda s: s.pss / 1e6),
        errors=sum(sum(sample.outcome.errors.values()) for sample in samples),
        incomplete=sum(sample.outcome.incomplete for sample in samples),
        ratios={name: _ratio(samples, theirs) for name, theirs in others.items() if name != first.subject},
        extra={name: round(median([s.extra.get(name, 0.0) for s in samples]), 3) for name in extra_names},
    )


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """Scenes and subjects in the order of their first appearance."""
    scenes: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        scenes.setdefault(sample.scene, {}).setdefault(sample.subject, []).append(sample)
    return [row_of(mine, dict(scene)) for scene in scenes.values() for mine in scene.values()]
