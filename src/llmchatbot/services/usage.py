"""What a person has used, by day and model."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

from llmchatbot.clock import Clock
from llmchatbot.database.pool import Database
from llmchatbot.errors import FieldError, InvalidInput
from llmchatbot.models.usage import UsageSum
from llmchatbot.repositories import usage

_USUAL_DAYS = 30
_MOST_DAYS = 366


class UsageService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def sums(
        self, user_id: UUID, first: date | None, last: date | None, *, by_day: bool, by_model: bool
    ) -> list[UsageSum]:
        """Days are UTC's; by default the last thirty. Raises InvalidInput for a span backwards or beyond a year."""
        last = last or self._clock.now().date()
        # Before the first of all days there is none.
        first = first or date.fromordinal(max(1, last.toordinal() - _USUAL_DAYS + 1))
        if not timedelta() <= last - first < timedelta(days=_MOST_DAYS):
            raise InvalidInput(
                f"'from' comes before 'to', at most {_MOST_DAYS} days.",
                errors=[FieldError("from", f"must lie at most {_MOST_DAYS} days before 'to'")],
            )
        return await usage.sums(self._database, user_id, first, last, by_day=by_day, by_model=by_model)
