"""Usage of answers that get no end: their chat is deleted for good while they are made (protocol §1, I6).

Whoever makes such an answer finds no generation to end any more, so what it has cost is written down by whoever deletes
it: the prompt on record and the text in the log, estimated and marked so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from llmchatbot.models.generations import Usage
from llmchatbot.models.usage import UsageRow
from llmchatbot.repositories import usage
from llmchatbot.repositories.executor import Executor
from llmchatbot.repositories.usage import Unended
from llmchatbot.streaming import payloads


class Estimator(Protocol):
    """What `PromptBuilder` knows of models."""

    def tokens(self, model_name: str, text: str) -> int: ...

    def cost(self, model_name: str, usage: Usage) -> float | None: ...


class Accounting:
    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator

    async def settle(self, executor: Executor, user_id: UUID, generation_ids: Sequence[UUID]) -> None:
        """Call it in the transaction that deletes these answers, while they are locked and before they are gone."""
        if generation_ids:
            unended = await usage.unended(executor, user_id, generation_ids)
            await usage.insert(executor, user_id, [self._row(one) for one in unended])

    def _row(self, unended: Unended) -> UsageRow:
        estimator, model = self._estimator, unended.model
        spent = Usage(
            input_tokens=sum(estimator.tokens(model, text) for text in unended.asked),
            output_tokens=estimator.tokens(model, payloads.text_of(unended.events).removeprefix(unended.prefix)),
            estimated=True,
        )
        return UsageRow(
            generation_id=unended.generation_id,
            model=model,
            input_tokens=spent.input_tokens,
            output_tokens=spent.output_tokens,
            cost=estimator.cost(model, spent),
        )
