"""Sending: one transaction writes the key, the question, the empty answer and the generation; then the model is called.

After that commit a request is never refused: what goes wrong later is an event of the answer (protocol §2).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from llmchatbot.config import LimitSettings
from llmchatbot.database.pool import Connection, Database
from llmchatbot.errors import (
    ChatArchived,
    ChatBusy,
    Draining,
    IdempotencyKeyReused,
    InvalidInput,
    NotContinuable,
    TooManyGenerations,
)
from llmchatbot.ids import new_id
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation, Status
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import answer_log, generations, idempotency, messages, user_events
from llmchatbot.repositories.idempotency import KnownKey
from llmchatbot.repositories.messages import BranchMessage, ChatHead
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.generations import GenerationService
from llmchatbot.services.titles import title_of
from llmchatbot.streaming import payloads, wakeups
from llmchatbot.streaming.wakeups import WakeUps

_KEY_LIFETIME = 24 * 3600.0
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
    generation: Generation
    replayed: bool


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the transaction has decided to write."""

    chat: ChatHead
    question: UUID | None
    content: str | None
    parent_id: UUID | None
    model: str
    parameters: dict[str, Any]
    prefix: str = ""


class MessageService:
    def __init__(
        self,
        *,
        database: Database,
        gateway: ModelGateway,
        maker: AnswerMaker,
        generation_service: GenerationService,
        wakeups: WakeUps,
        limits: LimitSettings,
        node_id: Callable[[], UUID],
        draining: Callable[[], bool],
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._maker = maker
        self._generations = generation_service
        self._wakeups = wakeups
        self._limits = limits
        self._node_id = node_id
        self._draining = draining
        self._turns = Turns()

    async def send(self, principal: Principal, chat_id: UUID, request: Send) -> Sent:
        """Raises NotFound, ChatArchived, ChatBusy, IdempotencyKeyReused, TooManyGenerations, UnknownModel, Draining."""
        fingerprint = _fingerprint(request)
        # A key of the client is visible ASCII, so the space keeps derived ones apart.
        key = f"derived {fingerprint.hex()}" if request.derive_key else request.key

        async def write(transaction: Connection, chat: ChatHead) -> Sent | _Plan:
            if key is not None:
                known = await self._find_key(transaction, principal.user_id, chat_id, key, derived=request.derive_key)
                if known is not None:
                    if known.fingerprint != fingerprint:
                        raise IdempotencyKeyReused
                    generation = await generations.get_owned(transaction, principal.user_id, known.generation_id)
                    return Sent(generation=generation, replayed=True)
            parent_id = chat.leaf_id if request.parent_id is msgspec.UNSET else request.parent_id
            if request.parent_id is not msgspec.UNSET and request.parent_id is not None:
                parent = await messages.get_in_chat(transaction, principal.user_id, chat_id, request.parent_id)
                if parent.role == "user":
                    raise InvalidInput("'parent_id' must name an answer, not a question.")
            return _Plan(
                chat=chat,
                question=None,
                content=request.content,
                parent_id=parent_id,
                model=self._gateway.resolve(request.model or chat.model_used).name,
                parameters={**chat.parameters, **request.parameters},
            )

        return await self._open(
            principal, chat_id, write, interrupt=request.interrupt, remember=(key, fingerprint) if key else None
        )

    async def regenerate(
        self, principal: Principal, chat_id: UUID, message_id: UUID, *, model: str | None = None, go_on: bool = False
    ) -> Sent:
        """Another answer to the same question, as a sibling; with `go_on` it begins with the text that was kept.

        Raises NotContinuable for an answer that is complete, and all that `send` raises.
        """

        async def write(transaction: Connection, chat: ChatHead) -> Sent | _Plan:
            message = await messages.get_in_chat(transaction, principal.user_id, chat_id, message_id)
            question = message.id if message.role == "user" else message.parent_id
            if question is None or (go_on and not _continuable(message)):
                raise NotContinuable
            return _Plan(
                chat=chat,
                question=question,
                content=None,
                parent_id=question,
                model=self._gateway.resolve(model or message.model or chat.model_used).name,
                parameters=chat.parameters,
                prefix=message.content if go_on else "",
            )

        return await self._open(principal, chat_id, write, interrupt=False, remember=None)

    async def _open(
        self,
        principal: Principal,
        chat_id: UUID,
        write: Callable[[Connection, ChatHead], Any],
        *,
        interrupt: bool,
        remember: tuple[str, bytes] | None,
    ) -> Sent:
        """The transaction, repeated when a running answer had to be stopped first."""
        if self._draining():
            raise Draining
        user_id = principal.user_id
        for attempt in range(_ATTEMPTS):
            # The turn is taken before a connection is: one person's clicks must not hold the pool of everybody.
            async with self._turns.of(user_id), self._database.transaction() as transaction:
                chat = await messages.lock_chat(transaction, user_id, chat_id)
                await messages.lock_user(transaction, user_id)
                decided = await write(transaction, chat)
                if isinstance(decided, Sent):
                    return decided
                if chat.archived:
                    raise ChatArchived
                running = await generations.find_active_in_chat(transaction, user_id, chat_id)
                if running is None:
                    await self._require_room(transaction, user_id)
                    generation, events = await self._write(transaction, principal, decided)
                    if remember is not None:
                        known = KnownKey(remember[1], generation.id)
                        await idempotency.remember(transaction, user_id, chat_id, remember[0], known, _KEY_LIFETIME)
                    break
            if not interrupt or attempt == _ATTEMPTS - 1:
                raise _busy(running)
            # Outside of the transaction: a stop waits for the upstream to be closed.
            await self._generations.stop(user_id, running.id)
        self._maker.start(generation, events)
        await self._wakeups.publish(wakeups.USER_EVENT, str(user_id))
        return Sent(generation=generation, replayed=False)

    async def _find_key(
        self, transaction: Connection, user_id: UUID, chat_id: UUID, key: str, *, derived: bool
    ) -> KnownKey | None:
        if derived:
            return await idempotency.find_derived(transaction, user_id, chat_id, key, _DERIVED_GRACE)
        return await idempotency.find(transaction, user_id, chat_id, key)

    async def _require_room(self, transaction: Connection, user_id: UUID) -> None:
        """Raises TooManyGenerations. The user's row is locked, so the count cannot be overrun."""
        if await generations.count_active(transaction, user_id) >= self._limits.active_generations:
            raise TooManyGenerations(
                f"{self._limits.active_generations} answers are being written for you already; "
                "wait for one to end or stop it.",
                retry_after=2,
            )

    async def _write(self, transaction: Connection, principal: Principal, plan: _Plan) -> tuple[Generation, list[str]]:
        """All rows of one question and its answer; the events that the log begins with."""
        chat_id, user_id = plan.chat.id, principal.user_id
        question = plan.question or new_id()
        generation = _new_generation(plan, question, user_id, self._node_id())
        rows = 2 if plan.content is not None else 1
        number = await messages.take_numbers(transaction, chat_id, rows, generation.message_id)
        if plan.content is not None:
            await messages.insert(
                transaction,
                message_id=question,
                chat_id=chat_id,
                user_id=user_id,
                parent_id=plan.parent_id,
                sequence_number=number,
                role="user",
                status="completed",
                content=plan.content,
            )
        await messages.insert(
            transaction,
            message_id=generation.message_id,
            chat_id=chat_id,
            user_id=user_id,
            parent_id=question,
            sequence_number=number + rows - 1,
            role="assistant",
            status="streaming",
            content="",
            model=plan.model,
            generation_id=generation.id,
        )
        await generations.create(transaction, generation, principal.session_id)
        events = await self._begin_log(transaction, plan, generation)
        await user_events.append(transaction, user_id, _started(generation))
        return generation, events

    async def _begin_log(self, transaction: Connection, plan: _Plan, generation: Generation) -> list[str]:
        events = [
            payloads.start(
                generation_id=generation.id,
                message_id=generation.message_id,
                user_message_id=generation.user_message_id,
                chat_id=generation.chat_id,
                model=generation.model,
            )
        ]
        if plan.prefix:
            events.append(payloads.token(plan.prefix))
        if plan.content is not None and plan.chat.title_source == "default" and plan.chat.last_sequence == 0:
            title = title_of(plan.content)
            if title and await messages.set_title_if_default(transaction, plan.chat.id, title, "text", ("default",)):
                events.append(payloads.encode({"type": "title", "content": title}))
                updated = {"type": "chat.updated", "chat_id": str(plan.chat.id)}
                await user_events.append(transaction, generation.user_id, updated)
        await answer_log.append_first(transaction, generation.id, events)
        return events


class Turns:
    """One at a time per person, within this process. The database's locks are what holds between processes."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def of(self, user_id: UUID) -> asyncio.Lock:
        lock = self._locks.get(user_id)
        if lock is None:
            lock = self._locks[user_id] = asyncio.Lock()
        return lock


def _new_generation(plan: _Plan, question: UUID, user_id: UUID, node_id: UUID) -> Generation:
    return Generation(
        id=new_id(),
        user_id=user_id,
        chat_id=plan.chat.id,
        message_id=new_id(),
        user_message_id=question,
        status=Status.QUEUED,
        epoch=1,
        owner_node=node_id,
        model=plan.model,
        parameters=plan.parameters,
        prefix=plan.prefix,
        last_seq=None,
        finish_reason=None,
        error_code=None,
        stop_requested_at=None,
        created_at=None,
        finished_at=None,
    )


def _started(generation: Generation) -> dict[str, Any]:
    return {
        "type": "generation.started",
        "generation_id": str(generation.id),
        "chat_id": str(generation.chat_id),
        "message_id": str(generation.message_id),
    }


def _continuable(message: BranchMessage) -> bool:
    return message.role == "assistant" and message.status in {"stopped", "interrupted", "failed"}


def _busy(running: Generation) -> ChatBusy:
    return ChatBusy(
        extra={"generation_id": str(running.id), "stream_url": f"/api/v1/generations/{running.id}/stream"},
    )


def _fingerprint(request: Send) -> bytes:
    """Of what the person asked for, not of how it was written."""
    parent = "" if request.parent_id is msgspec.UNSET else str(request.parent_id)
    body = [request.content, request.model or "", parent, request.parameters]
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
