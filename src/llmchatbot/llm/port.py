"""The port: what the product asks of a model, whoever makes it.

One implementation per protocol: `ndjson`, `openai_chat`, `openai_responses`, `anthropic`, `gemini`, and in this process
`guide` and `scripted`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

from llmchatbot.llm.events import Event


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message as the model sees it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may ask of the sampling. None and () mean: as the provider likes it."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one upstream. The last message is the user's; the history comes once and in order.

    `model` is the upstream's own name of the model. `prefix` is assistant text that was shown already: the model goes
    on from there and does not repeat it.
    """

    model: str
    messages: tuple[PromptMessage, ...]
    parameters: Parameters = Parameters()
    prefix: str = ""


class Sink(Protocol):
    """Takes deltas at once, in the callback of the network. What it raises ends the call."""

    @property
    def size(self) -> int:
        """UTF-8 bytes of all deltas that its owner has of the call, those that were yielded before included."""
        ...

    def text(self, piece: str) -> None:
        """One `TextDelta`, without the object around it: nearly all that a model says."""
        ...

    def events(self, batch: list[Event]) -> None:
        """Any deltas."""
        ...


class Model(Protocol):
    """One upstream."""

    def stream(self, prompt: Prompt, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        """Yield the events of the answer, batched as they came from the network.

        With a `sink`, a model may hand the deltas after the first batch to it instead of yielding them: thousands of
        tokens need no task that wakes for each. What ends the answer is yielded in any case.

        `aclose()` of the generator closes the upstream connection before it returns. Raises ModelError subclasses only.
        """
        ...

    async def health(self) -> bool:
        """Whether the upstream would answer now. Never raises; takes seconds at the most."""
        ...

    async def aclose(self) -> None:
        """Free what this model holds. Idempotent."""
        ...
