"""What one measurement says, and how it is kept."""

from __future__ import annotations

import msgspec

from benchmarks.client.plan import Outcome


class Sample(msgspec.Struct, kw_only=True):
    """One subject in one scene, once."""

    scene: str
    subject: str
    round: int
    seconds: float
    """Length of the window."""
    units: int
    """Tokens delivered, or requests answered, within the window."""
    expected: int = 0
    """Tokens the sources send within the window; 0 when the load is as fast as the subject."""
    cpu_us: float = 0.0
    """Processor time per unit, microseconds, all processes but PostgreSQL's."""
    database_us: float = 0.0
    """The same of PostgreSQL's."""
    cores: float = 0.0
    """Cores in use, PostgreSQL's apart."""
    rss: int = 0
    pss: int = 0
    database_pss: int = 0
    extra: dict[str, float] = {}
    outcome: Outcome


class Report(msgspec.Struct, kw_only=True):
    """A whole run."""

    form: str
    began: str
    seconds: float
    machine: dict[str, str]
    versions: dict[str, str]
    samples: list[Sample]
    notes: list[str] = []
