"""Sending: the POST form, the GET form that the first web client uses, and the two ways to try again."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from llmchatbot.errors import FieldError, Forbidden, InvalidInput, MethodNotAllowed, NotFound
from llmchatbot.handlers.deadlines import STREAM
from llmchatbot.handlers.generations import read_stream
from llmchatbot.handlers.inputs import VISIBLE, Input, require_storable
from llmchatbot.handlers.json_responses import JsonResponse
from llmchatbot.handlers.stream_responses import StreamOpener, format_of, poll_seconds_of
from llmchatbot.models.chats import ChatParameters
from llmchatbot.models.generations import Cursor
from llmchatbot.models.principals import Principal
from llmchatbot.services.generations import GenerationService
from llmchatbot.services.messages import MessageService, Send, Sent
from llmchatbot.services.request_limits import RequestLimits
from llmchatbot.streaming.frames import Format

LONGEST_MESSAGE = 32_000
# An address has room for less, and proxies cut it.
LONGEST_MESSAGE_IN_URL = 2_000
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
# What a person's click, a prefetch or an <img> sends; a program that means it does not (protocol §2.5).
_FOREIGN_MODES = {"navigate", "no-cors"}

IfBusy = Literal["reject", "interrupt"]


class SendMessage(Input, frozen=True, kw_only=True):
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_MESSAGE, pattern=VISIBLE)]
    model: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    parent_id: UUID | msgspec.UnsetType | None = msgspec.UNSET
    parameters: ChatParameters | None = None
    request_id: str | None = None
    if_busy: IfBusy = "reject"


class Again(Input, frozen=True, kw_only=True):
    model: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    request_id: str | None = None


class QuestionBody(msgspec.Struct, kw_only=True, frozen=True):
    """The person's message, in the shape of every message."""

    id: UUID
    role: Literal["user"] = "user"
    content: str
    tokens: int = 0
    is_incomplete: bool = False
    created_at: datetime
    sequence_number: int


class GenerationRef(msgspec.Struct, kw_only=True, frozen=True):
    id: UUID
    status: str
    message_id: UUID
    user_message_id: UUID
    chat_id: UUID
    model: str


class SentBody(msgspec.Struct, kw_only=True, frozen=True):
    """What was made: the question as it is stored, the answer's generation, and where to read it."""

    message: QuestionBody
    generation: GenerationRef
    stream_url: str


@post(
    "/chats/{chat_id:uuid}/messages",
    opt=STREAM,
    summary="Send a message",
    operation_id="sendMessage",
    description="With `Accept: text/event-stream` or `application/x-ndjson` the answer streams at once.",
)
async def send_message(
    request: Request[Any, Any, Any],
    chat_id: FromPath[UUID],
    data: JSONBody[SendMessage],
    principal: NamedDependency[Principal],
    message_service: NamedDependency[MessageService],
    generation_service: NamedDependency[GenerationService],
    stream_opener: NamedDependency[StreamOpener],
    request_limits: NamedDependency[RequestLimits],
    request_id: FromQuery[str | None] = None,
) -> Response[SentBody] | Response[bytes]:
    key = idempotency_key(request.headers.get("idempotency-key"), data.request_id, request_id)
    wire = _wanted_wire(request)
    if place := _place_in(request, wire):
        return await _resume(request, chat_id, place, None, principal, generation_service, stream_opener)
    request_limits.check_message(principal)
    parameters = msgspec.to_builtins(data.parameters) if data.parameters is not None else {}
    sent = await message_service.send(
        principal,
        chat_id,
        Send(
            content=data.content,
            model=data.model,
            parent_id=data.parent_id,
            parameters={name: value for name, value in parameters.items() if value is not None},
            key=key,
            interrupt=data.if_busy == "interrupt",
        ),
    )
    return await _answer(wire, sent, generation_service, stream_opener, principal)


@post(
    "/chats/{chat_id:uuid}/messages/{message_id:uuid}/continue",
    opt=STREAM,
    summary="Go on with an answer that broke off",
    operation_id="continueMessage",
    description="Makes a sibling of the answer that begins with the text that was kept.",
)
async def continue_message(
    request: Request[Any, Any, Any],
    chat_id: FromPath[UUID],
    message_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    message_service: NamedDependency[MessageService],
    generation_service: NamedDependency[GenerationService],
    stream_opener: NamedDependency[StreamOpener],
    request_limits: NamedDependency[RequestLimits],
    data: JSONBody[Again | None] = None,
    request_id: FromQuery[str | None] = None,
) -> Response[SentBody] | Response[bytes]:
    again = data or Again()
    key = idempotency_key(request.headers.get("idempotency-key"), again.request_id, request_id)
    wire = _wanted_wire(request)
    if place := _place_in(request, wire):
        return await _resume(request, chat_id, place, None, principal, generation_service, stream_opener)
    request_limits.check_message(principal)
    sent = await message_service.regenerate(principal, chat_id, message_id, model=again.model, key=key, go_on=True)
    return await _answer(wire, sent, generation_service, stream_opener, principal)


@post(
    "/chats/{chat_id:uuid}/messages/{message_id:uuid}/regenerate",
    opt=STREAM,
    summary="Another answer to the same question",
    operation_id="regenerateMessage",
    description="Makes a sibling of the answer; the chat's current branch moves to it.",
)
async def regenerate_message(
    request: Request[Any, Any, Any],
    chat_id: FromPath[UUID],
    message_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    message_service: NamedDependency[MessageService],
    generation_service: NamedDependency[GenerationService],
    stream_opener: NamedDependency[StreamOpener],
    request_limits: NamedDependency[RequestLimits],
    data: JSONBody[Again | None] = None,
    request_id: FromQuery[str | None] = None,
) -> Response[SentBody] | Response[bytes]:
    again = data or Again()
    key = idempotency_key(request.headers.get("idempotency-key"), again.request_id, request_id)
    wire = _wanted_wire(request)
    if place := _place_in(request, wire):
        return await _resume(request, chat_id, place, None, principal, generation_service, stream_opener)
    request_limits.check_message(principal)
    sent = await message_service.regenerate(principal, chat_id, message_id, model=again.model, key=key)
    return await _answer(wire, sent, generation_service, stream_opener, principal)


@get(
    "/stream/chat/{chat_id:uuid}",
    opt=STREAM,
    summary="Send a message by GET and stream its answer",
    operation_id="streamChat",
    description=(
        "For clients of the first backend. With `Last-Event-ID` (or `last_event_id`) it only resumes. "
        "Prefer POST: the text of a message does not belong in an address."
    ),
)
async def stream_chat(
    request: Request[Any, Any, Any],
    chat_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    message_service: NamedDependency[MessageService],
    generation_service: NamedDependency[GenerationService],
    stream_opener: NamedDependency[StreamOpener],
    request_limits: NamedDependency[RequestLimits],
    get_streams_enabled: NamedDependency[bool],
    message: FromQuery[str | None] = None,
    request_id: FromQuery[str | None] = None,
    last_event_id: FromQuery[str | None] = None,
    if_busy: FromQuery[IfBusy | None] = None,
    wait: FromQuery[float | None] = None,
) -> Response[bytes]:
    if not get_streams_enabled:
        raise MethodNotAllowed("Sending by GET is turned off here; POST to /api/v1/chats/{id}/messages.")
    refuse_foreign_fetch(request)
    resume = request.headers.get("last-event-id") or last_event_id
    if resume:
        return await _resume(request, chat_id, resume, wait, principal, generation_service, stream_opener)
    content = _message_in_url(message)
    # Whatever can be refused is refused before the commit (protocol §2).
    wire, poll_seconds = format_of(request), poll_seconds_of(wait)
    key = idempotency_key(request.headers.get("idempotency-key"), request_id)
    request_limits.check_message(principal)
    interrupt = if_busy == "interrupt" or (if_busy is None and key is None)
    sent = await message_service.send(
        principal, chat_id, Send(content=content, key=key, derive_key=key is None, interrupt=interrupt)
    )
    return await _stream(wire, sent, poll_seconds, principal, generation_service, stream_opener)


def _wanted_wire(request: Request[Any, Any, Any]) -> Format | None:
    """None for the plain JSON answer. Asked before the send: after its commit nothing is refused (protocol §2)."""
    kinds = {part.partition(";")[0].strip() for part in request.headers.get("accept", "").lower().split(",")}
    return format_of(request) if kinds & {Format.SSE, Format.NDJSON} else None


async def _resume(
    request: Request[Any, Any, Any],
    chat_id: UUID,
    last_event_id: str,
    wait: float | None,
    principal: Principal,
    generation_service: GenerationService,
    stream_opener: StreamOpener,
) -> Response[bytes]:
    """A reader that comes back to an answer of this chat. Nothing is ever created here (protocol §2.1)."""
    generation = await generation_service.get_owned(principal.user_id, Cursor.parse(last_event_id).generation_id)
    if generation.chat_id != chat_id:
        raise NotFound
    return await read_stream(request, generation.id, last_event_id, wait, principal, generation_service, stream_opener)


def _place_in(request: Request[Any, Any, Any], wire: Format | None) -> str | None:
    """Where a stream that was begun by a POST goes on: `fetch-event-source` and its like repeat the whole request."""
    return request.headers.get("last-event-id") or None if wire is not None else None


async def _answer(
    wire: Format | None,
    sent: Sent,
    generation_service: GenerationService,
    stream_opener: StreamOpener,
    principal: Principal,
) -> Response[SentBody] | Response[bytes]:
    if wire is not None:
        return await _stream(wire, sent, None, principal, generation_service, stream_opener)
    generation, question = sent.generation, sent.question
    body = SentBody(
        message=QuestionBody(
            id=question.id,
            content=question.content,
            created_at=question.created_at,
            sequence_number=question.sequence_number,
        ),
        generation=GenerationRef(
            id=generation.id,
            status=generation.status.value,
            message_id=generation.message_id,
            user_message_id=generation.user_message_id,
            chat_id=generation.chat_id,
            model=generation.model,
        ),
        stream_url=f"/api/v1/generations/{generation.id}/stream",
    )
    return JsonResponse(body, status_code=201, headers={**_sent_headers(sent), "Cache-Control": "no-store"})


async def _stream(
    wire: Format,
    sent: Sent,
    poll_seconds: float | None,
    principal: Principal,
    generation_service: GenerationService,
    stream_opener: StreamOpener,
) -> Response[bytes]:
    generation = sent.generation
    reading = await generation_service.read_sent(generation)
    return stream_opener.respond(
        reading.source,
        seq=reading.seq,
        wire=wire,
        session_id=principal.session_id,
        poll_seconds=poll_seconds,
        headers=_sent_headers(sent),
        on_delivered=(lambda: generation_service.mark_delivered(generation.id)) if reading.marks_end else None,
    )


def _sent_headers(sent: Sent) -> dict[str, str]:
    headers = {"X-Generation-Id": str(sent.generation.id)}
    if sent.replayed and sent.generation.status.terminal:
        headers["Idempotency-Replayed"] = "true"
    return headers


def idempotency_key(*places: str | None) -> str | None:
    """What the first place that holds one says. Raises InvalidInput unless it is 1–255 visible ASCII characters."""
    key = next((text for text in places if text is not None), None)
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput(
            "An idempotency key is 1 to 255 visible ASCII characters.",
            errors=[FieldError("request_id", "must be 1 to 255 visible ASCII characters")],
        )
    return key


def refuse_foreign_fetch(request: Request[Any, Any, Any]) -> None:
    """Raises Forbidden: a link, an image or a prefetch must not send messages."""
    headers = request.headers
    if headers.get("sec-fetch-mode") in _FOREIGN_MODES or "prefetch" in headers.get("sec-purpose", ""):
        raise Forbidden("This address sends a message; it cannot be opened as a page, an image or ahead of time.")


def _message_in_url(message: str | None) -> str:
    if not message or not re.search(VISIBLE, message):
        raise InvalidInput("'message' is missing or blank.", errors=[FieldError("message", "is required")])
    if len(message) > LONGEST_MESSAGE_IN_URL:
        raise InvalidInput(
            f"'message' is longer than {LONGEST_MESSAGE_IN_URL} characters; POST it.",
            errors=[FieldError("message", f"must have at most {LONGEST_MESSAGE_IN_URL} characters")],
        )
    return require_storable("message", message)


ROUTES = (send_message, continue_message, regenerate_message, stream_chat)
