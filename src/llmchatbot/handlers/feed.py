"""The feed of a person, with the same frames and cursor rules as an answer."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from llmchatbot.handlers.deadlines import STREAM
from llmchatbot.handlers.stream_responses import StreamOpener, format_of, poll_seconds_of
from llmchatbot.models.generations import Cursor
from llmchatbot.models.principals import Principal
from llmchatbot.services.feed import FeedService


@get(
    "/events",
    opt=STREAM,
    summary="What changes, on every device",
    operation_id="streamEvents",
    description=(
        "`chat.created|updated|archived|deleted`, `generation.started|ended`, `session.revoked`. "
        "A `reset` means: read the lists again."
    ),
)
async def stream_events(
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    feed_service: NamedDependency[FeedService],
    stream_opener: NamedDependency[StreamOpener],
    last_event_id: FromQuery[str | None] = None,
    wait: FromQuery[float | None] = None,
) -> Response[bytes]:
    wire = format_of(request)
    poll_seconds = poll_seconds_of(wait)
    resume = request.headers.get("last-event-id") or last_event_id
    cursor = Cursor.parse(resume) if resume else None
    stream_opener.require_room(principal.session_id)
    reading = await feed_service.open(principal.user_id, cursor)
    return stream_opener.respond(
        reading.source,
        seq=reading.seq,
        wire=wire,
        session_id=principal.session_id,
        poll_seconds=poll_seconds,
        on_closed=lambda: feed_service.close(reading.source),
    )


ROUTES = (stream_events,)
