"""The models that can be talked to."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from llmchatbot.llm.gateway import ModelGateway


class ModelBody(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    protocol: str
    context_window: int
    max_output_tokens: int
    continues_prefix: bool
    reasoning: bool
    vision: bool
    tools: bool
    input_price: float | None
    output_price: float | None
    default: bool


@get("/models", summary="Models", operation_id="listModels")
async def list_models(gateway: NamedDependency[ModelGateway]) -> list[ModelBody]:
    default = gateway.default_model()
    return [
        ModelBody(
            name=model.name,
            protocol=model.protocol,
            context_window=model.context_window,
            max_output_tokens=model.max_output_tokens,
            continues_prefix=model.continues_prefix,
            reasoning=model.reasoning,
            vision=model.vision,
            tools=model.tools,
            input_price=model.input_price,
            output_price=model.output_price,
            default=model.name == default,
        )
        for model in gateway.describe()
    ]


ROUTES = (list_models,)
