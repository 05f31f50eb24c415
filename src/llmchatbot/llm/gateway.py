"""The way in: everybody who wants an answer from a model asks the gateway, by the model's public name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from random import Random
from typing import Self

from llmchatbot.config import ModelSettings
from llmchatbot.errors import ModelError
from llmchatbot.llm.call import GatewayCall, GatewayRequest, Surroundings
from llmchatbot.llm.catalog import build_registry
from llmchatbot.llm.collector import Collector
from llmchatbot.llm.context import ContextChoice, ContextMessage, choose_context, input_budget
from llmchatbot.llm.events import Event
from llmchatbot.llm.examination import examine
from llmchatbot.llm.factory import build_model
from llmchatbot.llm.port import Model, Parameters, Sink
from llmchatbot.llm.registry import ModelInfo, RegisteredModel, Registry
from llmchatbot.llm.tokens import TokenEstimator
from llmchatbot.llm.transport import HttpTransport
from llmchatbot.llm.upstream import Upstream

__all__ = ["GatewayRequest", "ModelGateway", "ModelInfo"]

_HEALTH_SECONDS = 5.0


class ModelGateway:
    """All models of this process. Build it with `from_settings`; nothing is opened before the first call."""

    def __init__(
        self,
        registry: Registry,
        *,
        transport: HttpTransport | None = None,
        build: Callable[[RegisteredModel, HttpTransport], Model] = build_model,
        max_concurrent: int = 1000,
        surroundings: Surroundings | None = None,
    ) -> None:
        """`build` and `surroundings` are for tests."""
        self._registry = registry
        self._transport = transport or HttpTransport()
        self._world = surroundings or Surroundings(
            clock=time.monotonic,
            sleep=asyncio.sleep,
            random=Random(),  # noqa: S311 - jitter is no secret
            estimator=TokenEstimator(),
        )
        self._upstreams = {
            model.name: Upstream(
                model, build(model, self._transport), max_concurrent=max_concurrent, clock=self._world.clock
            )
            for model in registry
        }

    @classmethod
    def from_settings(cls, settings: ModelSettings, environment: Mapping[str, str] | None = None) -> Self:
        """`environment` holds the keys that a models file refers to. Raises StartupError with all problems."""
        return cls(
            build_registry(settings, environment or {}),
            transport=HttpTransport(trust_environment_proxies=settings.use_environment_proxies),
            max_concurrent=settings.max_concurrent,
        )

    @property
    def collector(self) -> Collector:
        """Reads the answers of all models when it is asked to."""
        return self._transport.collector

    def describe(self) -> list[ModelInfo]:
        """All models, in the order in which they were set up."""
        return [upstream.info for upstream in self._upstreams.values()]

    def default_model(self) -> str:
        """The public name of the model of a chat that names none."""
        return self._registry.default

    def resolve(self, name: str) -> ModelInfo:
        """The model called `name`, the default for "". Raises UnknownModel; its extra lists the known names."""
        return self._upstreams[self._registry.resolve(name).name].info

    def choose_context(
        self,
        model: str,
        messages: Sequence[ContextMessage],
        *,
        system_prompt: str = "",
        prefix: str = "",
        parameters: Parameters | None = None,
    ) -> ContextChoice:
        """The part of `messages` (oldest first) that fits `model`. Raises UnknownModel, ContextTooLong."""
        info = self.resolve(model)
        max_tokens = parameters.max_tokens if parameters is not None else None
        return choose_context(
            messages,
            budget=input_budget(info.context_window, info.max_output_tokens, max_tokens),
            estimate=lambda text: self._world.estimator.of_text(info.name, text),
            system_prompt=system_prompt,
            prefix=prefix,
        )

    def estimate_tokens(self, model: str, text: str) -> int:
        """Tokens of `text` for `model`: for an answer that was stopped, so that no provider counted it."""
        return self._world.estimator.of_text(self.resolve(model).name, text)

    def stream(self, request: GatewayRequest, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        """See `port.Model.stream`. Raises UnknownModel at once; iterating raises ModelError subclasses only."""
        chain = [self._upstreams[model.name] for model in self._registry.chain(request.model)]
        return GatewayCall(request, chain, self._world, sink).run()

    async def health(self) -> dict[str, bool]:
        """Whether each model would answer now, by public name. Takes five seconds at the most; never raises."""
        shared = self._shared()
        async with asyncio.TaskGroup() as group:
            tasks = {where: group.create_task(_healthy(upstreams[0])) for where, upstreams in shared.items()}
        return {
            upstream.name: tasks[where].result() and not upstream.breaker.open
            for where, upstreams in shared.items()
            for upstream in upstreams
        }

    async def examine(self) -> dict[str, ModelError | None]:
        """What is wrong with each model that lives elsewhere, by public name; None where nothing is. Never raises."""
        shared = {where: upstreams for where, upstreams in self._shared().items() if upstreams[0].registered.endpoint}
        async with asyncio.TaskGroup() as group:
            tasks = {
                where: group.create_task(examine(upstreams[0].model, _HEALTH_SECONDS))
                for where, upstreams in shared.items()
            }
        return {upstream.name: tasks[where].result() for where, upstreams in shared.items() for upstream in upstreams}

    def _shared(self) -> dict[str, list[Upstream]]:
        """The models of one server and key together: it is asked once, not for each of them."""
        shared: dict[str, list[Upstream]] = {}
        for name, upstream in self._upstreams.items():
            endpoint = upstream.registered.endpoint
            shared.setdefault(f"{endpoint.url} {endpoint.key_setting}" if endpoint else name, []).append(upstream)
        return shared

    async def aclose(self) -> None:
        """Close all models and connections. Idempotent."""
        for upstream in self._upstreams.values():
            await upstream.model.aclose()
        await self._transport.aclose()


async def _healthy(upstream: Upstream) -> bool:
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            return await upstream.model.health()
    except TimeoutError:
        return False
