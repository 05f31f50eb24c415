"""What is wrong with an upstream right now, in words: for a person who sets one up. Costs no tokens."""

from __future__ import annotations

import asyncio

from llmchatbot.errors import ModelError, ModelTimeout, ModelUnavailable
from llmchatbot.llm.detect import DetectedModel
from llmchatbot.llm.ndjson import NdjsonModel
from llmchatbot.llm.port import Model
from llmchatbot.llm.wire import WireModel


async def examine(model: Model, seconds: float) -> ModelError | None:
    """None when it answers and takes our key; else what an answer would end with."""
    try:
        async with asyncio.timeout(seconds):
            await _require_answer(model)
    except TimeoutError:
        return ModelTimeout(f"No answer within {seconds:.0f} seconds.")
    except ModelError as error:
        return error
    return None


async def _require_answer(model: Model) -> None:
    if isinstance(model, DetectedModel):
        model = (await model.find()).model
    if isinstance(model, WireModel) and not isinstance(model, NdjsonModel):
        # Unlike `health` it says why not.
        await model.get_json("models")
    elif not await model.health():
        raise ModelUnavailable("It answers, but its model is not loaded.")
