"""Time limits of protocol §8: a body within 15 s, a route that is no stream within 10 s."""

from __future__ import annotations

import asyncio

from litestar.types import ASGIApp, HTTPReceiveMessage, Receive, Scope, Send

from llmchatbot.errors import BodyTimeout, RequestTimeout

# Streams set their own deadlines per frame.
STREAM = {"stream": True}


class DeadlineMiddleware:
    """The clock for the body runs first; the one for the route starts when the body is complete."""

    def __init__(self, app: ASGIApp, body_timeout: float, route_timeout: float) -> None:
        self._app = app
        self._body_timeout = body_timeout
        self._route_timeout = route_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_body = scope.get("method") in {"POST", "PUT", "PATCH"}
        if scope["route_handler"].opt.get("stream"):
            await self._app(scope, self._bounded(receive) if has_body else receive, send)
            return
        loop = asyncio.get_running_loop()
        complete = not has_body
        try:
            async with asyncio.timeout(self._body_timeout if has_body else self._route_timeout) as deadline:

                async def receive_body() -> HTTPReceiveMessage:
                    nonlocal complete
                    message: HTTPReceiveMessage = await receive()  # type: ignore[assignment]  # never a websocket
                    if not message.get("more_body") and not complete:
                        complete = True
                        deadline.reschedule(loop.time() + self._route_timeout)
                    return message

                await self._app(scope, receive_body, send)
        except TimeoutError as error:
            raise (RequestTimeout() if complete else BodyTimeout()) from error

    def _bounded(self, receive: Receive) -> Receive:
        complete = False

        async def receive_in_time() -> HTTPReceiveMessage:
            nonlocal complete
            if complete:
                # What comes after the body is the disconnect, and that may take as long as the stream.
                return await receive()  # type: ignore[return-value]  # never a websocket
            try:
                async with asyncio.timeout(self._body_timeout):
                    message: HTTPReceiveMessage = await receive()  # type: ignore[assignment]  # never a websocket
            except TimeoutError as error:
                raise BodyTimeout from error
            complete = not message.get("more_body")
            return message

        return receive_in_time
