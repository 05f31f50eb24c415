"""Calls through the proxies of the environment, where they are wanted: aiohttp knows their rules, we need not."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from llmchatbot.llm.body import HttpStream, timed_out
from llmchatbot.llm.http_request import HttpRequest, interrupted, not_http, unreachable

_READ_BUFFER = 256 * 1024


class ProxiedStream(HttpStream):
    """Fed by a task that reads aiohttp's body."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: HttpRequest, started: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(request.endpoint.limits, started, loop)
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._room = asyncio.Event()
        self._room.set()
        self._pump = loop.create_task(self._run(), name="proxied body")

    async def _run(self) -> None:
        try:
            async for piece in self._response.content.iter_any():
                self.feed(piece)
                await self._room.wait()
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError):
            self.fail(interrupted())
        else:
            self.end()

    def pause(self) -> None:
        self._room.clear()

    def resume(self) -> None:
        self._room.set()

    async def aclose(self) -> None:
        """See `HttpStream.aclose`."""
        await super().aclose()
        self._pump.cancel()
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(asyncio.wait({self._pump}))


class ProxiedConnections:
    """Its session is made at the first call, inside the running loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def _ready(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                trust_env=True,
                skip_auto_headers=("User-Agent",),
            )
        return self._session

    async def open(self, request: HttpRequest, started: float) -> HttpStream:
        """See `DirectConnections.open`."""
        endpoint = request.endpoint
        connect = endpoint.limits.connect
        try:
            response = await self._ready().request(
                request.method,
                request.url,
                data=request.body or None,
                headers=request.all_headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect),
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise timed_out("connect", endpoint.limits) from error
        except TimeoutError:
            raise
        except aiohttp.ClientResponseError as error:
            raise not_http(endpoint) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable(endpoint, error) from error
        return ProxiedStream(response, request, started, asyncio.get_running_loop())

    async def aclose(self) -> None:
        """Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
