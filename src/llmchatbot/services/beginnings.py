"""What is written when an answer begins: the question, the empty answer, the generation, its first events."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.errors import UnknownModel
from llmchatbot.ids import new_id
from llmchatbot.models.generations import Generation, Status
from llmchatbot.models.principals import Principal
from llmchatbot.repositories.messages import BranchMessage, Question
from llmchatbot.repositories.sending import NewMessages, Situation
from llmchatbot.services.prompts import Chosen, PromptBuilder
from llmchatbot.services.titles import title_of
from llmchatbot.streaming import payloads

_KEY_LIFETIME = 24 * 3600.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written once nothing stands in the way. `content` is None when the question is there already.

    `stands_in_for`: the model of the chat or of the answer before, when there is none of that name (any more).
    """

    question: Question | None
    content: str | None
    parent_id: UUID | None
    model: str
    parameters: dict[str, Any]
    prefix: str = ""
    stands_in_for: str = ""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """The name of an intent, and what was asked under it."""

    name: str | None = None
    fingerprint: bytes = b""
    derived: bool = False


class Beginning(msgspec.Struct, frozen=True):
    """All that is to be written, and what the model will be sent."""

    new: NewMessages
    chosen: Chosen


def beginning_of(
    principal: Principal, chat: Situation, plan: Plan, key: Key, *, prompts: PromptBuilder, node_id: UUID
) -> Beginning:
    """All rows and first events of one intent, with ids of their own. Raises ContextTooLong."""
    generation = _new_generation(plan, chat.id, principal.user_id, node_id, derived_key=key.derived)
    asked = [] if plan.content is None else [BranchMessage(generation.user_message_id, "user", plan.content)]
    chosen = prompts.choose(generation, [*chat.branch, *asked], prefix=plan.prefix)
    unnamed = plan.content is not None and chat.title_source == "default" and chat.last_sequence == 0
    title = title_of(plan.content or "") if unnamed else ""
    events = [_start(generation)]
    if plan.stands_in_for:
        events.append(_stand_in(plan))
    if plan.prefix:
        events.append(payloads.token(plan.prefix))
    feed = [_started(generation)]
    if title:
        events.append(payloads.encode({"type": "title", "content": title}))
        feed.append({"type": "chat.updated", "chat_id": str(chat.id)})
    new = NewMessages(
        generation=generation,
        prompt=chosen.record,
        session_id=principal.session_id,
        parent_id=plan.parent_id,
        content=plan.content,
        title=title or None,
        key=key.name,
        fingerprint=key.fingerprint,
        key_seconds=_KEY_LIFETIME,
        events=events,
        feed=feed,
    )
    return Beginning(new, chosen)


def _new_generation(plan: Plan, chat_id: UUID, user_id: UUID, node_id: UUID, *, derived_key: bool) -> Generation:
    return Generation(
        id=new_id(),
        user_id=user_id,
        chat_id=chat_id,
        message_id=new_id(),
        user_message_id=plan.question.id if plan.question is not None else new_id(),
        status=Status.RUNNING,
        epoch=1,
        owner_node=node_id,
        model=plan.model,
        parameters=plan.parameters,
        prefix=plan.prefix,
        derived_key=derived_key,
        last_seq=None,
        finish_reason=None,
        error_code=None,
        stop_requested_at=None,
        created_at=None,
        finished_at=None,
    )


def _start(generation: Generation) -> str:
    return payloads.start(
        generation_id=generation.id,
        message_id=generation.message_id,
        user_message_id=generation.user_message_id,
        chat_id=generation.chat_id,
        model=generation.model,
    )


def _stand_in(plan: Plan) -> str:
    """Told, not refused: a client of the first backend names whatever it likes, and cannot choose another by GET."""
    return payloads.notice(
        "fallback",
        f"There is no model '{plan.stands_in_for[:100]}' here; {plan.model} answers.",
        {"from": plan.stands_in_for[:100], "to": plan.model, "reason": UnknownModel.code},
    )


def _started(generation: Generation) -> dict[str, Any]:
    return {
        "type": "generation.started",
        "generation_id": str(generation.id),
        "chat_id": str(generation.chat_id),
        "message_id": str(generation.message_id),
    }
