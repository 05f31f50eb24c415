"""What an answer is said to have cost (I6)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmchatbot.ids import new_id
from llmchatbot.llm.events import MOST_TOKENS
from llmchatbot.llm.events import Usage as ModelUsage
from llmchatbot.models.generations import Generation, Status, Usage
from llmchatbot.services.jobs import Job, ending_of
from llmchatbot.services.prompts import PromptBuilder
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.tails import Tail


class Prompts:
    """A token is a character, and nothing costs anything."""

    def tokens(self, model_name: str, text: str) -> int:
        return len(text)

    def cost(self, model_name: str, usage: Usage) -> None:
        return None


def usage_of(prefix: str, stored: str, said: str, told: ModelUsage | None) -> Usage:
    values: dict[str, Any] = dict.fromkeys(Generation.__struct_fields__)
    values |= {name: new_id() for name in ("id", "user_id", "chat_id", "message_id", "user_message_id")}
    values |= {"status": Status.RUNNING, "epoch": 1, "model": "m", "parameters": {}, "derived_key": False}
    generation = Generation(**values | {"prefix": prefix})
    job = Job(generation, Draft(Tail(generation.id), epoch=1, next_seq=1, text=stored))
    job.draft.add_text(said)
    job.usage, job.prompt_texts = told, ["asked"]
    return ending_of(job, None, cast("PromptBuilder", Prompts())).usage


TOLD = ModelUsage(50, 7)


@pytest.mark.parametrize(
    ("prefix", "stored", "told", "expected"),
    [
        ("", "", TOLD, Usage(input_tokens=50, output_tokens=7, estimated=False)),
        ("", "", None, Usage(input_tokens=5, output_tokens=4, estimated=True)),
        # A node died after three characters: its provider's count died with it.
        ("", "abc", TOLD, Usage(input_tokens=50, output_tokens=10, estimated=True)),
        ("", "abc", None, Usage(input_tokens=5, output_tokens=7, estimated=True)),
        # A person asked to go on from three: they were accounted when they were made.
        ("abc", "abc", TOLD, Usage(input_tokens=50, output_tokens=7, estimated=False)),
        ("abc", "abc", None, Usage(input_tokens=5, output_tokens=4, estimated=True)),
        ("abc", "abcde", TOLD, Usage(input_tokens=50, output_tokens=9, estimated=True)),
        # As many as fit their column, with those of a node that died.
        ("", "abc", ModelUsage(2**31, 2**31 - 2), Usage(input_tokens=2**31 - 1, output_tokens=2**31 - 1)),
    ],
)
def test_each_character_is_accounted_once(prefix: str, stored: str, told: ModelUsage | None, expected: Usage) -> None:
    assert usage_of(prefix, stored, "said", told) == expected


@pytest.mark.parametrize(("price", "cost"), [(3.0, 2 * MOST_TOKENS * 3 / 1e6), (1e9, 999_999.99999999)])
def test_a_cost_is_at_most_what_its_column_holds(price: float, cost: float) -> None:
    gateway = SimpleNamespace(describe=lambda: [SimpleNamespace(name="m", input_price=price, output_price=price)])
    prompts = PromptBuilder(cast("Any", None), cast("Any", gateway), recorder=cast("Any", None))
    assert prompts.cost("m", Usage(input_tokens=MOST_TOKENS, output_tokens=MOST_TOKENS)) == pytest.approx(cost)
