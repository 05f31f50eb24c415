"""The way in: everybody who wants an answer from a model asks the gateway, by the model's public name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Self

import msgspec

from llmchatbot.config import ModelSettings
from llmchatbot.llm.catalog import build_registry
from llmchatbot.llm.events import DELTAS, Answering, Event, Finished
from llmchatbot.llm.factory import build_model
from llmchatbot.llm.port import Model, Parameters, Prompt, PromptMessage
from llmchatbot.llm.registry import ModelInfo, RegisteredModel, Registry
from llmchatbot.llm.transport import HttpTransport

__all__ = ["GatewayRequest", "ModelGateway", "ModelInfo"]


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer wanted. `model` is a public name, "" the default; `user_id` is for fairness in the queue."""

    model: str
    messages: tuple[PromptMessage, ...]
    parameters: Parameters = Parameters()
    system_prompt: str = ""
    prefix: str = ""
    user_id: str = ""


class ModelGateway:
    """All models of this process."""

    def __init__(
        self,
        registry: Registry,
        *,
        transport: HttpTransport | None = None,
        build: Callable[[RegisteredModel, HttpTransport], Model] = build_model,
    ) -> None:
        self._registry = registry
        self._transport = transport or HttpTransport()
        self._models: dict[str, Model] = {model.name: build(model, self._transport) for model in registry}

    @classmethod
    def from_settings(cls, settings: ModelSettings, environment: Mapping[str, str] | None = None) -> Self:
        """`environment` holds the keys that a models file refers to. Raises StartupError with all problems."""
        return cls(
            build_registry(settings, environment or {}),
            transport=HttpTransport(trust_environment_proxies=settings.use_environment_proxies),
        )

    def describe(self) -> list[ModelInfo]:
        """All models, in the order in which they were set up."""
        return [model.info for model in self._registry]

    def default_model(self) -> str:
        """The public name of the model of a chat that names none."""
        return self._registry.default

    def resolve(self, name: str) -> ModelInfo:
        """Raises UnknownModel; its extra lists the known names."""
        return self._registry.resolve(name).info

    async def stream(self, request: GatewayRequest) -> AsyncGenerator[list[Event], None]:
        """See `port.Model.stream`; raises UnknownModel, then ModelError subclasses only."""
        registered = self._registry.resolve(request.model)
        system = (PromptMessage(role="system", content=request.system_prompt),) if request.system_prompt else ()
        prompt = Prompt(
            model=registered.upstream_name,
            messages=(*system, *request.messages),
            parameters=request.parameters,
            prefix=request.prefix,
        )
        answering = False
        async with aclosing(self._models[registered.name].stream(prompt)) as batches:
            async for batch in batches:
                if not answering and any(isinstance(event, (*DELTAS, Finished)) for event in batch):
                    answering = True
                    yield [Answering(registered.name, registered.upstream_name), *batch]
                else:
                    yield batch

    async def health(self) -> dict[str, bool]:
        """Whether each model would answer now, by public name."""
        return {name: await model.health() for name, model in self._models.items()}

    async def aclose(self) -> None:
        """Close all models and connections. Idempotent."""
        for model in self._models.values():
            await model.aclose()
        await self._transport.aclose()
