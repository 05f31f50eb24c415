"""What answers have cost."""

from __future__ import annotations

from datetime import date

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
