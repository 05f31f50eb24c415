"""Chooses the history that a model gets to see: pure, and by whole turns.

First the system prompt and the newest turn, which must fit; then older turns, newest first, while they fit whole. A gap
would make the model misread what follows it, so the first turn that does not fit ends the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from llmchatbot.errors import ContextTooLong
from llmchatbot.llm.port import PromptMessage
from llmchatbot.llm.tokens import PER_MESSAGE

Estimate = Callable[[str], int]
"""Tokens of a text."""


class ContextMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the chat, oldest first in every list."""

    id: str
    role: Literal["system", "user", "assistant"]
    content: str

    def as_prompt(self) -> PromptMessage:
        """As the model sees it."""
        return PromptMessage(role=self.role, content=self.content)


class ContextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What goes to the model, and what was left out for want of room. `tokens` is an estimate of the whole prompt."""

    messages: tuple[ContextMessage, ...]
    left_out: tuple[str, ...]
    tokens: int
    budget: int

    def prompt_messages(self) -> tuple[PromptMessage, ...]:
        """For `GatewayRequest.messages`."""
        return tuple(message.as_prompt() for message in self.messages)


def input_budget(context_window: int, max_output_tokens: int, max_tokens: int | None = None) -> int:
    """Tokens that the prompt may have: the window less room for the answer, at most half of the window."""
    wanted = max_tokens if max_tokens is not None else min(max_output_tokens, context_window // 4)
    return context_window - min(wanted, context_window // 2)


def turns_of(messages: Sequence[ContextMessage]) -> list[list[ContextMessage]]:
    """Cut at each user's message: a turn is a question and all that answered it."""
    turns: list[list[ContextMessage]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return turns


def choose_context(
    messages: Sequence[ContextMessage],
    *,
    budget: int,
    estimate: Estimate,
    system_prompt: str = "",
    prefix: str = "",
) -> ContextChoice:
    """The messages that fit `budget` tokens. Empty messages (an answer stopped before its first token) are skipped.

    Raises ContextTooLong with both numbers when the newest turn does not fit even alone.
    """
    spoken = [message for message in messages if message.content.strip()]
    turns = turns_of(spoken)
    used = sum(estimate(text) + PER_MESSAGE for text in (system_prompt, prefix) if text)
    chosen: list[ContextMessage] = []
    for turn in reversed(turns):
        tokens = sum(estimate(message.content) + PER_MESSAGE for message in turn)
        if used + tokens > budget:
            if not chosen:
                raise _too_long(used + tokens, budget)
            break
        used += tokens
        chosen[:0] = turn
    kept = {message.id for message in chosen}
    left_out = tuple(message.id for message in spoken if message.id not in kept)
    return ContextChoice(messages=tuple(chosen), left_out=left_out, tokens=used, budget=budget)


def _too_long(tokens: int, budget: int) -> ContextTooLong:
    return ContextTooLong(
        f"The message needs about {tokens} tokens, and the model takes {budget}; shorten it, or choose another model.",
        extra={"tokens": tokens, "limit": budget},
    )
