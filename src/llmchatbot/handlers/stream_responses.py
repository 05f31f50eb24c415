"""Streams as raw ASGI responses: no wrapper between a frame and the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from litestar import Request, Response
from litestar.types import ASGIApp, Receive, Scope, Send

from llmchatbot.clock import Clock
from llmchatbot.errors import AppError, FieldError, InvalidInput, MalformedCursor, NotAcceptable
from llmchatbot.handlers.outermost import OUTLET, RAW_SEND, STREAM_APPLICATION
from llmchatbot.handlers.problems import handle_app_error
from llmchatbot.models.generations import Cursor
from llmchatbot.streaming.frames import Format
from llmchatbot.streaming.streams import OpenStreams, Source, Stream

logger = logging.getLogger(__name__)

_LONGEST_POLL = 60.0
_HEADERS = (
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)


class StreamResponse(Response[bytes]):
    """Litestar asks a response for its ASGI application; this one leaves the stream to the outermost layer."""

    def __init__(self, application: ASGIApp) -> None:
        super().__init__(content=b"")
        self._application = application

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> Any:
        return self._leave

    async def _leave(self, scope: Any, receive: Receive, send: Send) -> None:
        scope[STREAM_APPLICATION] = self._application


class DisconnectWatch:
    """Calls back when the client has gone. A callback on the server's own future: a task per stream costs 2 KB more."""

    def __init__(self, receive: Receive, on_disconnect: Callable[[], None]) -> None:
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._closed = False
        self._arm()

    def _arm(self) -> None:
        self._future = asyncio.ensure_future(self._receive())
        self._future.add_done_callback(self._received)

    def _received(self, future: asyncio.Future[Any]) -> None:
        if self._closed or future.cancelled():
            return
        if future.exception() is not None or future.result()["type"] == "http.disconnect":
            self._on_disconnect()
        else:
            # The request itself, or the rest of a body that nobody reads.
            self._arm()

    def close(self) -> None:
        self._closed = True
        self._future.cancel()


class StreamOpener:
    """Makes stream responses out of sources; knows all that are open."""

    def __init__(self, streams: OpenStreams, clock: Clock) -> None:
        self._streams = streams
        self._clock = clock

    def require_room(self, session_id: UUID) -> None:
        """For those who only read: what an answer costs whoever begins it is limited anyway. Raises RateLimited."""
        self._streams.require_room(session_id)

    def respond(
        self,
        source: Source,
        *,
        seq: int,
        wire: Format,
        session_id: UUID | None,
        poll_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
        on_delivered: Callable[[], Awaitable[None]] | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> Response[bytes]:
        """`on_delivered` is awaited right before the last event of an ended source is written to a reader."""

        async def application(scope: Any, receive: Receive, send: Send) -> None:
            # The head goes through every layer, frames through none: thousands a second would pay for them.
            raw_send = scope.get(RAW_SEND, send)

            async def write(data: bytes, more: bool) -> None:
                await raw_send({"type": "http.response.body", "body": data, "more_body": more})

            stream = Stream(source, seq=seq, wire=wire, send=write, session_id=session_id, clock=self._clock)
            stream.before_end = on_delivered
            stream.outlet = scope.get("extensions", {}).get(OUTLET)
            self._streams.add(stream)
            watch = DisconnectWatch(receive, stream.leave)
            try:
                await send(_start(wire, headers))
                await stream.run(opening=wire.opening(), poll_seconds=poll_seconds)
                if not stream.gone:
                    await write(b"", False)
            except asyncio.CancelledError:
                # Our own ticker (a reader that takes nothing, a device that was logged out): close without a word.
                # Whoever takes nothing would not take the end either: without one the server breaks the connection.
                if stream.sending_since is None:
                    await write(b"", False)
            finally:
                watch.close()
                self._streams.remove(stream)
                if on_closed is not None:
                    on_closed()

        return StreamResponse(application)


def _start(wire: Format, headers: Mapping[str, str] | None) -> Any:
    extra = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", wire.content_type), *_HEADERS, *extra],
    }


def format_of(request: Request[Any, Any, Any], *, default: Format = Format.SSE) -> Format:
    """Which of the two a client asks for. Raises NotAcceptable when it takes neither."""
    accepted = request.headers.get("accept", "")
    if not accepted:
        return default
    kinds = [part.partition(";")[0].strip().lower() for part in accepted.split(",")]
    for kind in kinds:
        if kind == Format.NDJSON:
            return Format.NDJSON
        if kind in {Format.SSE, "text/*"}:
            return Format.SSE
    if "*/*" in kinds:
        return default
    raise NotAcceptable("This address streams: accept text/event-stream or application/x-ndjson.")


def poll_seconds_of(wait: float | None) -> float | None:
    """`?wait=20`: answer as soon as there is something, at the latest after so many seconds. Raises InvalidInput."""
    if wait is None:
        return None
    if not 0 <= wait <= _LONGEST_POLL:
        range_ = f"lies between 0 and {_LONGEST_POLL:.0f} seconds"
        raise InvalidInput(f"'wait' {range_}.", errors=[FieldError("wait", range_)])
    return wait


def handle_passing_trouble(request: Request[Any, Any, Any], error: AppError) -> Response[bytes]:
    """Trouble that will pass is told to a reader that comes back to its place as 200, a pause, and the same place.

    Chromium's EventSource gives up for ever on 429, 502, 503 and 204 (protocol §6); to everybody else it is refused.
    """
    place = _place_of(request)
    if place is None:
        return handle_app_error(request, error)
    logger.info("a reader is sent away for a moment: %s", error.code)
    wire, cursor = place

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(_start(wire, None))
        body = wire.farewell(cursor.generation_id, cursor.seq)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return StreamResponse(application)


def _place_of(request: Request[Any, Any, Any]) -> tuple[Format, Cursor] | None:
    """Where a reader comes back to; None when this is no such request, or one that is refused in any case."""
    resume = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if request.method != "GET" or not resume or "stream" not in request.route_handler.opt:
        return None
    try:
        return format_of(request), Cursor.parse(resume)
    except (NotAcceptable, MalformedCursor):
        return None
