"""One model with what protects it and us from each other: waiting line, breaker, retry budget."""

from __future__ import annotations

import msgspec

from llmchatbot.llm.detect import DetectedModel
from llmchatbot.llm.factory import SUPPORTED
from llmchatbot.llm.fair_queue import FairLimiter
from llmchatbot.llm.port import Model
from llmchatbot.llm.registry import ModelInfo, RegisteredModel
from llmchatbot.llm.resilience import CircuitBreaker, Clock, RetryBudget


class Upstream:
    """What the gateway keeps per model."""

    def __init__(self, registered: RegisteredModel, model: Model, *, max_concurrent: int, clock: Clock) -> None:
        entry = registered.entry
        self.registered = registered
        self.model = model
        self.breaker = CircuitBreaker(clock)
        self.budget = RetryBudget()
        self.limiter = FairLimiter(entry.max_concurrent or max_concurrent, max_waiting=entry.max_waiting)

    @property
    def name(self) -> str:
        """Our public name."""
        return self.registered.name

    @property
    def continues_prefix(self) -> bool:
        """Whether it can go on from a text."""
        return "prefix" in self.registered.entry.capabilities

    @property
    def info(self) -> ModelInfo:
        """What clients may know, with the window that the server itself told, once it was asked."""
        info = self.registered.info
        found = self.model.found if isinstance(self.model, DetectedModel) else None
        if found is None or not found.window:
            return info
        output = min(info.max_output_tokens, found.window)
        return msgspec.structs.replace(info, context_window=found.window, max_output_tokens=output)

    async def upstream_name(self) -> str:
        """The name that the upstream knows; asks for it where only the address was given. Raises ModelError."""
        if isinstance(self.model, DetectedModel) and not self.registered.upstream_name:
            return (await self.model.find()).name or self.name
        return self.registered.upstream_name or self.name

    async def supported_parameters(self) -> frozenset[str]:
        """What can be sent. Raises ModelError where the protocol must be asked for first."""
        entry = self.registered.entry
        protocol: str = entry.protocol
        if isinstance(self.model, DetectedModel):
            protocol = (await self.model.find()).protocol
        return SUPPORTED[protocol] - entry.unsupported_parameters
