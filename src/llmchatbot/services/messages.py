"""Sending: one statement writes the key, the question, the empty answer and the generation; then the model is called.

After that commit a request is never refused: what goes wrong later is an event of the answer (protocol §2).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.config import LimitSettings
from llmchatbot.database.pool import Connection, Database, retrying
from llmchatbot.errors import (
    ChatArchived,
    ChatBusy,
    Draining,
    FieldError,
    IdempotencyKeyReused,
    InvalidInput,
    NotContinuable,
    NotFound,
    TooManyGenerations,
    Unavailable,
)
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import generations, messages, sending
from llmchatbot.repositories.messages import Original, Question
from llmchatbot.repositories.sending import Situation
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.beginnings import Key, Plan, beginning_of
from llmchatbot.services.generations import GenerationService
from llmchatbot.services.prompts import PromptBuilder
from llmchatbot.services.turns import Turns

# A lost first frame is asked for again within seconds (protocol §2.3).
_DERIVED_GRACE = 10.0
# Whoever comes between a look and its write has got something done; this many in a row are no accident.
_ATTEMPTS = 10
_RESTLESS = "This chat changed each time the message was about to be written; send it again."


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
        fresh_seconds: float,
        node_id: Callable[[], UUID],
        draining: Callable[[], bool],
    ) -> None:
        """`fresh_seconds`: shorter than the part of a lease that is left at any time."""
        self._database = database
        self._gateway = gateway
        self._prompts = prompts
        self._maker = maker
        self._generations = generation_service
        self._limits = limits
        self._fresh_seconds = fresh_seconds
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

        def plan(chat: Situation) -> Plan:
            parent_id = chat.leaf_id if request.parent_id is msgspec.UNSET else request.parent_id
            if request.parent_id is not msgspec.UNSET and request.parent_id is not None:
                if chat.after_role is None:
                    raise NotFound
                if chat.after_role == "user":
                    sentence = "'parent_id' must name an answer, not a question."
                    raise InvalidInput(sentence, errors=[FieldError("parent_id", "must name an answer")])
            model = self._gateway.resolve(request.model or self._still_known(chat.model_used)).name
            parameters = {**chat.parameters, **request.parameters}
            # Before a running answer is stopped for it.
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
        return await self._open(principal, chat_id, request.parent_id, plan, key, interrupt=request.interrupt)

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
        original = await messages.get_original(self._database, principal.user_id, chat_id, message_id)
        question_id = original.id if original.role == "user" else original.parent_id
        if question_id is None:
            raise NotContinuable
        question = await messages.get_question(self._database, principal.user_id, chat_id, question_id)

        def plan(chat: Situation) -> Plan:
            if go_on and not _continuable(original):
                raise NotContinuable
            wished = original.model or chat.model_used
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
                prefix=original.content if go_on else "",
            )

        asked = ["continue" if go_on else "regenerate", str(message_id), model or ""]
        named = Key(name=key, fingerprint=hashlib.sha256(msgspec.json.encode(asked)).digest())
        return await self._open(principal, chat_id, question.id, plan, named, interrupt=False)

    async def _open(
        self,
        principal: Principal,
        chat_id: UUID,
        after: UUID | msgspec.UnsetType | None,
        plan: Callable[[Situation], Plan],
        key: Key,
        *,
        interrupt: bool,
    ) -> Sent:
        """Look and write, again when the chat has changed in between or a running answer had to be stopped first.

        A process that drains makes nothing new. Who comes again is joined all the same, and then sent elsewhere: a
        refusal would close a native EventSource for good.
        """
        if key.name is None and self._draining():
            raise Draining
        user_id = principal.user_id
        for attempt in range(1, _ATTEMPTS + 1):
            # The turn is taken before a connection is: one person's clicks must not hold the pool of everybody.
            async with self._turns.of(user_id), self._database.acquire() as connection:
                chat = await sending.look(
                    connection,
                    user_id,
                    chat_id,
                    key=key.name,
                    derived=key.derived,
                    grace=_DERIVED_GRACE,
                    after=after,
                )
                if chat.known_generation_id is not None:
                    return await self._join(connection, user_id, chat, key)
                if self._draining():
                    raise Draining
                planned = plan(chat)
                if chat.archived:
                    raise ChatArchived
                if chat.running_id is None:
                    sent = await self._begin(connection, principal, chat, planned, key)
                    if sent is not None:
                        return sent
                    continue
            if not interrupt or attempt == _ATTEMPTS:
                raise _busy(chat.running_id)
            # Out of turn: a stop waits for the upstream to be closed.
            await self._generations.stop(user_id, chat.running_id)
        raise Unavailable(_RESTLESS, retry_after=1)

    async def _begin(
        self, connection: Connection, principal: Principal, chat: Situation, planned: Plan, key: Key
    ) -> Sent | None:
        """Write it, and begin its answer. None when something has changed since the look at the chat."""
        self._require_room(chat.active)
        begun = beginning_of(principal, chat, planned, key, prompts=self._prompts, node_id=self._node_id())
        generation = begun.new.generation
        loop = asyncio.get_running_loop()
        before = loop.time()
        with self._maker.reserved(generation.id):
            written = await retrying(
                lambda: sending.write(connection, chat, begun.new, most_active=self._limits.active_generations)
            )
            if written is None:
                return None
            # A process that stood still for so long may have lost it to another one: the database is asked then.
            fresh = loop.time() - before < self._fresh_seconds
            self._maker.start(generation, list(begun.new.events), begun.chosen if fresh else None)
            self._generations.made_here(generation.id)
        self._maker.announce(principal.user_id)
        sequence_number, created_at = written
        question = planned.question or Question(
            id=generation.user_message_id,
            content=planned.content or "",
            sequence_number=sequence_number,
            created_at=created_at,
        )
        return Sent(question=question, generation=generation, replayed=False)

    def _still_known(self, model: str) -> str:
        """Empty when there is no such model (any more): the next best is asked then. Only a wish of now is refused."""
        return model if any(known.name == model for known in self._gateway.describe()) else ""

    async def _join(self, connection: Connection, user_id: UUID, chat: Situation, key: Key) -> Sent:
        """The same intent again. Raises IdempotencyKeyReused when something else is asked under its name."""
        if chat.known_fingerprint != key.fingerprint or chat.known_generation_id is None:
            raise IdempotencyKeyReused
        generation = await generations.get_owned(connection, user_id, chat.known_generation_id)
        question = await messages.get_question(connection, user_id, generation.chat_id, generation.user_message_id)
        return Sent(question=question, generation=generation, replayed=True)

    def _require_room(self, active: int) -> None:
        """Raises TooManyGenerations. The write asks again, under the lock of the person's row."""
        limit = self._limits.active_generations
        if active >= limit:
            raise TooManyGenerations(
                f"{limit} answers are being written for you already; wait for one to end or stop it.",
                retry_after=2,
                headers={"RateLimit-Policy": f'"answers";q={limit}', "RateLimit": '"answers";r=0;t=2'},
            )


def _continuable(message: Original) -> bool:
    return message.role == "assistant" and message.status in {"stopped", "interrupted", "failed"}


def _busy(running_id: UUID) -> ChatBusy:
    return ChatBusy(extra={"generation_id": str(running_id), "stream_url": f"/api/v1/generations/{running_id}/stream"})


def _fingerprint(request: Send) -> bytes:
    """Of what the person asked for, not of how it was written."""
    parent = "" if request.parent_id is msgspec.UNSET else str(request.parent_id)
    body = [request.content, request.model or "", parent, request.parameters]
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
