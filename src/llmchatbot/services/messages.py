"""Sending: one transaction writes the key, the question, the empty answer and the generation; then the model is called.

After that commit a request is never refused: what goes wrong later is an event of the answer (protocol §2).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.config import LimitSettings
from llmchatbot.database.pool import Connection, Database
from llmchatbot.errors import (
    ChatArchived,
    ChatBusy,
    Draining,
    FieldError,
    IdempotencyKeyReused,
    InvalidInput,
    NotContinuable,
    TooManyGenerations,
)
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import generations, messages, sending
from llmchatbot.repositories.messages import BranchMessage, Question
from llmchatbot.repositories.sending import ChatHead, Situation
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.beginnings import Key, Plan, new_messages
from llmchatbot.services.generations import GenerationService
from llmchatbot.services.prompts import PromptBuilder
from llmchatbot.services.turns import Turns

# A lost first frame is asked for again within seconds (protocol §2.3).
_DERIVED_GRACE = 10.0
_ATTEMPTS = 5


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """What a person sends. `parent_id` unset: after the chat's current leaf; None: a new beginning."""

    content: str
    model: str | None = None
    parent_id: UUID | msgspec.UnsetType | None = msgspec.UNSET
    parameters: dict[str, Any] = {}
    key: str | None = None
    derive_key: bool = False
    interrupt: bool = False


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, the generation that answers it, and whether it was there already."""

    question: Question
    generation: Generation
    replayed: bool


class MessageService:
    def __init__(
        self,
        *,
        database: Database,
        gateway: ModelGateway,
        prompts: PromptBuilder,
        maker: AnswerMaker,
        generation_service: GenerationService,
        limits: LimitSettings,
        node_id: Callable[[], UUID],
        draining: Callable[[], bool],
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._prompts = prompts
        self._maker = maker
        self._generations = generation_service
        self._limits = limits
        self._node_id = node_id
        self._draining = draining
        self._turns = Turns()

    async def send(self, principal: Principal, chat_id: UUID, request: Send) -> Sent:
        """Raises NotFound, ChatArchived, ChatBusy, IdempotencyKeyReused, TooManyGenerations, UnknownModel, Draining,
        and ContextTooLong when the message alone does not fit its model.
        """
        fingerprint = _fingerprint(request)
        # A key of the client is visible ASCII, so the space keeps derived ones apart.
        name = f"derived {fingerprint.hex()}" if request.derive_key else request.key

        async def plan(transaction: Connection, chat: ChatHead) -> Plan:
            parent_id = chat.leaf_id if request.parent_id is msgspec.UNSET else request.parent_id
            if request.parent_id is not msgspec.UNSET and request.parent_id is not None:
                parent = await messages.get_in_chat(transaction, principal.user_id, chat_id, request.parent_id)
                if parent.role == "user":
                    sentence = "'parent_id' must name an answer, not a question."
                    raise InvalidInput(sentence, errors=[FieldError("parent_id", "must name an answer")])
            model = self._gateway.resolve(request.model or self._still_known(chat.model_used)).name
            parameters = {**chat.parameters, **request.parameters}
            self._prompts.require_fit(model, request.content, parameters)
            return Plan(
                question=None,
                content=request.content,
                parent_id=parent_id,
                model=model,
                parameters=parameters,
                stands_in_for="" if request.model or chat.model_used in {"", model} else chat.model_used,
            )

        key = Key(name=name, fingerprint=fingerprint, derived=request.derive_key)
        return await self._open(principal, chat_id, plan, key, interrupt=request.interrupt)

    async def regenerate(
        self,
        principal: Principal,
        chat_id: UUID,
        message_id: UUID,
        *,
        model: str | None = None,
        key: str | None = None,
        go_on: bool = False,
    ) -> Sent:
        """Another answer to the same question, as a sibling; with `go_on` it begins with the text that was kept.

        Raises NotContinuable for an answer that is complete, and all that `send` raises.
        """

        async def plan(transaction: Connection, chat: ChatHead) -> Plan:
            message = await messages.get_in_chat(transaction, principal.user_id, chat_id, message_id)
            question_id = message.id if message.role == "user" else message.parent_id
            if question_id is None or (go_on and not _continuable(message)):
                raise NotContinuable
            question = await messages.get_question(transaction, principal.user_id, chat_id, question_id)
            wished = message.model or chat.model_used
            chosen = self._gateway.resolve(
                model or self._still_known(wished) or self._still_known(chat.model_used)
            ).name
            return Plan(
                question=question,
                content=None,
                parent_id=question.id,
                model=chosen,
                stands_in_for="" if model or wished in {"", chosen} else wished,
                parameters=chat.parameters,
                prefix=message.content if go_on else "",
            )

        asked = ["continue" if go_on else "regenerate", str(message_id), model or ""]
        named = Key(name=key, fingerprint=hashlib.sha256(msgspec.json.encode(asked)).digest())
        return await self._open(principal, chat_id, plan, named, interrupt=False)

    async def _open(
        self,
        principal: Principal,
        chat_id: UUID,
        plan: Callable[[Connection, ChatHead], Awaitable[Plan]],
        key: Key,
        *,
        interrupt: bool,
    ) -> Sent:
        """The transaction, repeated when a running answer had to be stopped first.

        A process that drains makes nothing new. Who comes again is joined all the same, and then sent elsewhere: a
        refusal would close a native EventSource for good.
        """
        if key.name is None and self._draining():
            raise Draining
        user_id = principal.user_id
        with contextlib.ExitStack() as hold:
            for attempt in range(_ATTEMPTS):
                # The turn is taken before a connection is: one person's clicks must not hold the pool of everybody.
                async with self._turns.of(user_id), self._database.transaction() as transaction:
                    chat = await sending.lock(transaction, user_id, chat_id)
                    situation = await sending.look(
                        transaction, user_id, chat_id, key=key.name, derived=key.derived, grace=_DERIVED_GRACE
                    )
                    if situation.known_generation_id is not None:
                        return await self._join(transaction, user_id, situation, key)
                    if self._draining():
                        raise Draining
                    planned = await plan(transaction, chat)
                    if chat.archived:
                        raise ChatArchived
                    if situation.running_id is None:
                        self._require_room(situation.active)
                        new = new_messages(principal, chat, planned, key, node_id=self._node_id())
                        hold.enter_context(self._maker.reserved(new.generation.id))
                        number, created_at = await sending.write(transaction, new)
                        break
                if not interrupt or attempt == _ATTEMPTS - 1:
                    raise _busy(situation.running_id)
                # Outside of the transaction: a stop waits for the upstream to be closed.
                await self._generations.stop(user_id, situation.running_id)
            self._maker.start(new.generation, list(new.events))
            self._generations.made_here(new.generation.id)
        self._maker.announce(user_id)
        question = planned.question or Question(
            id=new.generation.user_message_id,
            content=planned.content or "",
            sequence_number=number,
            created_at=created_at,
        )
        return Sent(question=question, generation=new.generation, replayed=False)

    def _still_known(self, model: str) -> str:
        """Empty when there is no such model (any more): the next best is asked then. Only a wish of now is refused."""
        return model if any(known.name == model for known in self._gateway.describe()) else ""

    async def _join(self, transaction: Connection, user_id: UUID, situation: Situation, key: Key) -> Sent:
        """The same intent again. Raises IdempotencyKeyReused when something else is asked under its name."""
        if situation.known_fingerprint != key.fingerprint or situation.known_generation_id is None:
            raise IdempotencyKeyReused
        generation = await generations.get_owned(transaction, user_id, situation.known_generation_id)
        question = await messages.get_question(transaction, user_id, generation.chat_id, generation.user_message_id)
        return Sent(question=question, generation=generation, replayed=True)

    def _require_room(self, active: int) -> None:
        """Raises TooManyGenerations. The user's row is locked, so the count cannot be overrun."""
        limit = self._limits.active_generations
        if active >= limit:
            raise TooManyGenerations(
                f"{limit} answers are being written for you already; wait for one to end or stop it.",
                retry_after=2,
                headers={"RateLimit-Policy": f'"answers";q={limit}', "RateLimit": '"answers";r=0;t=2'},
            )


def _continuable(message: BranchMessage) -> bool:
    return message.role == "assistant" and message.status in {"stopped", "interrupted", "failed"}


def _busy(running_id: UUID) -> ChatBusy:
    return ChatBusy(extra={"generation_id": str(running_id), "stream_url": f"/api/v1/generations/{running_id}/stream"})


def _fingerprint(request: Send) -> bytes:
    """Of what the person asked for, not of how it was written."""
    parent = "" if request.parent_id is msgspec.UNSET else str(request.parent_id)
    body = [request.content, request.model or "", parent, request.parameters]
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
