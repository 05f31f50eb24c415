"""Reading and stopping answers; every one of these is a pure read or harmless to repeat."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from llmchatbot.errors import InvalidToken
from llmchatbot.handlers.authentication import TICKET
from llmchatbot.handlers.deadlines import STREAM
from llmchatbot.handlers.stream_responses import StreamOpener, format_of, poll_seconds_of
from llmchatbot.models.generations import Cursor, Receipt
from llmchatbot.models.principals import Principal
from llmchatbot.services.generations import GenerationService


class GenerationBody(msgspec.Struct, kw_only=True, frozen=True):
    id: UUID
    chat_id: UUID
    message_id: UUID
    user_message_id: UUID
    status: str
    model: str
    finish_reason: str | None
    error_code: str | None
    created_at: datetime | None
    finished_at: datetime | None
    stream_url: str


class TicketBody(msgspec.Struct, kw_only=True, frozen=True):
    ticket: str
    expires_at: datetime
    stream_url: str


@get("/generations/{generation_id:uuid}", summary="State of an answer", operation_id="getGeneration")
async def get_generation(
    generation_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    generation_service: NamedDependency[GenerationService],
) -> GenerationBody:
    generation = await generation_service.get_owned(principal.user_id, generation_id)
    return GenerationBody(
        id=generation.id,
        chat_id=generation.chat_id,
        message_id=generation.message_id,
        user_message_id=generation.user_message_id,
        status=generation.status.value,
        model=generation.model,
        finish_reason=generation.finish_reason,
        error_code=generation.error_code,
        created_at=generation.created_at,
        finished_at=generation.finished_at,
        stream_url=f"/api/v1/generations/{generation.id}/stream",
    )


@get(
    "/generations/{generation_id:uuid}/prompt",
    summary="The exact prompt that was sent",
    operation_id="getGenerationPrompt",
)
async def get_prompt(
    generation_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    generation_service: NamedDependency[GenerationService],
) -> dict[str, Any]:
    return await generation_service.prompt(principal.user_id, generation_id)


@get(
    "/generations/{generation_id:uuid}/stream",
    opt={**STREAM, **TICKET},
    summary="Read an answer from a cursor on",
    operation_id="streamGeneration",
    description="Server-sent events, or NDJSON by `Accept`. 204 when the cursor is at the end of a finished answer.",
)
async def stream_generation(
    request: Request[Any, Any, Any],
    generation_id: FromPath[UUID],
    generation_service: NamedDependency[GenerationService],
    stream_opener: NamedDependency[StreamOpener],
    last_event_id: FromQuery[str | None] = None,
    ticket: FromQuery[str | None] = None,
    wait: FromQuery[float | None] = None,
) -> Response[bytes]:
    principal: Principal | None = request.scope.get("user")
    if principal is None:
        if not ticket:
            raise InvalidToken
        principal = await generation_service.redeem_ticket(ticket, generation_id)
    resume = request.headers.get("last-event-id") or last_event_id
    return await read_stream(request, generation_id, resume, wait, principal, generation_service, stream_opener)


async def read_stream(
    request: Request[Any, Any, Any],
    generation_id: UUID,
    last_event_id: str | None,
    wait: float | None,
    principal: Principal,
    generation_service: GenerationService,
    stream_opener: StreamOpener,
) -> Response[bytes]:
    wire = format_of(request)
    poll_seconds = poll_seconds_of(wait)
    cursor = Cursor.parse(last_event_id) if last_event_id else None
    stream_opener.require_room(principal.session_id)
    reading = await generation_service.read(principal.user_id, generation_id, cursor)
    if reading.nothing_left:
        return Response(content=b"", status_code=204, headers={"Cache-Control": "no-store"})
    return stream_opener.respond(
        reading.source,
        seq=reading.seq,
        wire=wire,
        session_id=principal.session_id,
        poll_seconds=poll_seconds,
        on_delivered=(lambda: generation_service.mark_delivered(generation_id)) if reading.marks_end else None,
    )


@post(
    "/generations/{generation_id:uuid}/stop",
    status_code=200,
    opt=STREAM,
    summary="Stop an answer and keep its text",
    operation_id="stopGeneration",
    description="Answers with a receipt after the upstream connection is closed; twice gives the same receipt.",
)
async def stop_generation(
    generation_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    generation_service: NamedDependency[GenerationService],
) -> Receipt:
    return await generation_service.stop(principal.user_id, generation_id)


@post(
    "/generations/{generation_id:uuid}/ticket",
    summary="A ticket for this answer's read stream",
    operation_id="issueTicket",
    description="For a native EventSource on another origin: `?ticket=`, minutes to live, for this stream only.",
)
async def issue_ticket(
    generation_id: FromPath[UUID],
    principal: NamedDependency[Principal],
    generation_service: NamedDependency[GenerationService],
) -> Response[TicketBody]:
    ticket = await generation_service.issue_ticket(principal, generation_id)
    body = TicketBody(
        ticket=ticket.ticket,
        expires_at=ticket.expires_at,
        stream_url=f"/api/v1/generations/{generation_id}/stream?ticket={ticket.ticket}",
    )
    return Response(body, status_code=201, headers={"Cache-Control": "no-store"})


ROUTES = (get_generation, get_prompt, stream_generation, stop_generation, issue_ticket)
