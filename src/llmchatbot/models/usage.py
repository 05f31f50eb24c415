"""What answers have cost."""

from __future__ import annotations

from datetime import date
from uuid import UUID

import msgspec


class UsageSum(msgspec.Struct, frozen=True):
    """One row of the sums. `day` and `model` are None where they were not grouped by; `cost` where no price is known.

    `estimated`: at least one provider gave no numbers. Positional, as rows come from the database.
    """

    day: date | None
    model: str | None
    answers: int
    input_tokens: int
    output_tokens: int
    estimated: bool
    cost: float | None


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer has cost by our own estimate, because nobody is left who could count."""

    generation_id: UUID
    model: str
    input_tokens: int
    output_tokens: int
    cost: float | None
