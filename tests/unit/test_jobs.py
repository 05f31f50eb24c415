"""What an answer is said to have cost (I6)."""

from __future__ import annotations

from typing import Any, cast

import pytest

from llmchatbot.ids import new_id
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
    ],
)
def test_each_character_is_accounted_once(prefix: str, stored: str, told: ModelUsage | None, expected: Usage) -> None:
    assert usage_of(prefix, stored, "said", told) == expected
