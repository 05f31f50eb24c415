"""An estimator for accounting whose numbers a test can foretell: a token a character, a millionth a token."""

from __future__ import annotations

from llmchatbot.models.generations import Usage
from llmchatbot.services.accounting import Accounting


class Letters:
    def tokens(self, model_name: str, text: str) -> int:
        return len(text)

    def cost(self, model_name: str, usage: Usage) -> float | None:
        return (usage.input_tokens + usage.output_tokens) / 1_000_000 if model_name == "priced" else None


def accounting() -> Accounting:
    return Accounting(Letters())
