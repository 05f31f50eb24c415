"""From a generation to what the model is sent: the branch of messages that fits, once and in order, on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llmchatbot.database.pool import Database
from llmchatbot.errors import UnknownModel
from llmchatbot.llm.context import ContextChoice, ContextMessage
from llmchatbot.llm.events import Notice
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway, ModelInfo
from llmchatbot.llm.port import Parameters, PromptMessage
from llmchatbot.models.generations import Generation, Usage
from llmchatbot.repositories import generations, messages
from llmchatbot.repositories.executor import Executor
from llmchatbot.repositories.messages import LONGEST_BRANCH, BranchMessage

# The column's type is numeric(14, 8).
_MOST_COST = 999_999.99999999
_GO_ON = "Continue your last answer exactly where it broke off. Do not repeat any of it and do not comment on this."


class Chosen(msgspec.Struct, frozen=True):
    """What the model is sent, what of it goes on record, and what the person should be told about it."""

    request: GatewayRequest
    record: dict[str, Any]
    notices: Sequence[Notice] = ()


class PromptBuilder:
    def __init__(
        self, database: Database, gateway: ModelGateway, *, recorder: Executor, default_system_prompt: str = ""
    ) -> None:
        """`recorder` writes prompts; it need not wait for the disk, the end of the answer does."""
        self._database = database
        self._recorder = recorder
        self._gateway = gateway
        self._default_system_prompt = default_system_prompt

    async def build(self, generation: Generation, *, prefix: str) -> Chosen | None:
        """For an answer that somebody else has begun; put on record. None when it has moved on.

        Raises what `choose` raises.
        """
        branch = await messages.branch(self._database, generation.chat_id, generation.user_message_id, LONGEST_BRANCH)
        chosen = self.choose(generation, branch, prefix=prefix)
        if not await generations.begin(self._recorder, generation.id, generation.epoch, chosen.record):
            return None
        return chosen

    def choose(self, generation: Generation, branch: Sequence[BranchMessage], *, prefix: str) -> Chosen:
        """`branch` ends with the question.

        Raises ContextTooLong when the newest message alone does not fit, UnknownModel when the model is gone.
        """
        model = self._gateway.resolve(generation.model)
        parameters = dict(generation.parameters)
        system_prompt = parameters.pop("system_prompt", None) or self._default_system_prompt
        sampling = msgspec.convert(parameters, Parameters)
        chosen = self._gateway.choose_context(
            model.name,
            [
                ContextMessage(id=str(message.id), role=_role(message.role), content=message.content)
                for message in branch
            ],
            system_prompt=system_prompt,
            prefix=prefix,
            parameters=sampling,
        )
        request = _request(generation, model, chosen.prompt_messages(), sampling, system_prompt, prefix)
        record = {
            "model": model.name,
            "message_ids": [message.id for message in chosen.messages],
            "left_out_ids": list(chosen.left_out),
            "parameters": msgspec.to_builtins(request.parameters),
            "system_prompt": system_prompt,
            "prefix_characters": len(prefix),
            # The one thing that a model may be sent and that stands in no message and no setting.
            "instruction": _GO_ON if _told_in_words(model, prefix) else "",
        }
        return Chosen(request, record, _notices(chosen))

    def require_fit(self, model_name: str, content: str, parameters: dict[str, Any]) -> None:
        """Raises ContextTooLong with both numbers when `content` alone does not fit: no history changes that."""
        sampling = dict(parameters)
        system_prompt = sampling.pop("system_prompt", None) or self._default_system_prompt
        self._gateway.choose_context(
            model_name,
            [ContextMessage(id="", role="user", content=content)],
            system_prompt=system_prompt,
            parameters=msgspec.convert(sampling, Parameters),
        )

    def tokens(self, model_name: str, text: str) -> int:
        """Of a text that no provider has counted; also for a model that only the node before us knew."""
        try:
            return self._gateway.estimate_tokens(model_name, text)
        except UnknownModel:
            return -(-len(text) // 4)

    def cost(self, model_name: str, usage: Usage) -> float | None:
        """In the currency of the registry's prices, which are per million tokens; None without prices.

        At most what can be written down.
        """
        known = {model.name: model for model in self._gateway.describe()}
        model = known.get(model_name)
        if model is None or model.input_price is None or model.output_price is None:
            return None
        cost = (usage.input_tokens * model.input_price + usage.output_tokens * model.output_price) / 1_000_000
        return min(_MOST_COST, cost)


def _notices(chosen: ContextChoice) -> list[Notice]:
    if not chosen.left_out:
        return []
    return [
        Notice(
            code="context_trimmed",
            text=f"The {len(chosen.left_out)} oldest messages do not fit the model's context.",
            data={"left_out": len(chosen.left_out), "kept": len(chosen.messages)},
        )
    ]


def _role(role: str) -> Any:
    """The database's constraint admits the three roles that the port knows."""
    return role


def _told_in_words(model: ModelInfo, prefix: str) -> bool:
    """A person has asked (`continue`) a model that cannot go on from a text by itself."""
    return bool(prefix) and not model.continues_prefix


def _request(
    generation: Generation,
    model: ModelInfo,
    chosen: tuple[PromptMessage, ...],
    parameters: Parameters,
    system_prompt: str,
    prefix: str,
) -> GatewayRequest:
    if _told_in_words(model, prefix):
        chosen = (
            *chosen,
            PromptMessage(role="assistant", content=prefix),
            PromptMessage(role="user", content=_GO_ON),
        )
        prefix = ""
    return GatewayRequest(
        model=model.name,
        messages=chosen,
        parameters=parameters,
        system_prompt=system_prompt,
        prefix=prefix,
        user_id=str(generation.user_id),
    )
