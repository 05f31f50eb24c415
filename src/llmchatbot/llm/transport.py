"""HTTP to the upstreams: the only file that knows the HTTP client.

No redirect is followed, no cookie kept, no proxy of the environment used (unless set): the key goes to its own origin
and nowhere else. Closing closes the socket before it returns, so "stopped" is never said while the model still works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Literal

import aiohttp
import msgspec

from llmchatbot.errors import (
    ModelError,
    ModelInterrupted,
    ModelMisconfigured,
    ModelProtocolError,
    ModelTimeout,
    ModelUnavailable,
)
from llmchatbot.llm.endpoint import Endpoint, TimeLimits
from llmchatbot.llm.http_errors import in_band, refusal

_log = logging.getLogger(__name__)

_READ_BUFFER = 256 * 1024
_MAX_REFUSAL = 64 * 1024
_CLOSE_SECONDS = 1.0

Which = Literal["connect", "first_byte", "chunk", "whole"]
_LIMIT_NAMES: dict[Which, str] = {
    "connect": "connection",
    "first_byte": "first byte",
    "chunk": "next piece",
    "whole": "end of the answer",
}


def timed_out(which: Which, limits: TimeLimits) -> ModelTimeout:
    """The error for one of the four limits; `extra["limit"]` says which."""
    seconds: float = getattr(limits, which)
    return ModelTimeout(
        f"The model's {_LIMIT_NAMES[which]} did not come within {seconds:g} s.",
        extra={"limit": which, "seconds": seconds},
    )


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an endpoint."""

    endpoint: Endpoint
    url: str
    headers: dict[str, str]
    body: bytes = b""
    method: str = "POST"


class HttpTransport:
    """Opens streams. One per gateway; its sessions are made at first use, inside the running loop."""

    def __init__(self, *, trust_environment_proxies: bool = False) -> None:
        self._trust_env = trust_environment_proxies
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False

    def _session(self, keep_alive: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(keep_alive)
        if session is None:
            if self._closed:
                raise ModelUnavailable("The connection to the model's service was closed: the process is stopping.")
            session = self._sessions[keep_alive] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, force_close=not keep_alive),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                trust_env=self._trust_env,
                auto_decompress=True,
                skip_auto_headers=("User-Agent",),
            )
        return session

    async def open(self, request: HttpRequest) -> HttpStream:
        """Send the request and return its body as a stream once a 200 came.

        Raises ModelTimeout, ModelUnavailable, or what `http_errors.refusal` makes of any other status.
        """
        endpoint = request.endpoint
        endpoint.require_own_origin(request.url)
        if endpoint.key_setting and not endpoint.key:
            raise ModelMisconfigured(f"This model needs a key; set {endpoint.key_setting}.")
        loop = asyncio.get_running_loop()
        started = loop.time()
        limits = endpoint.limits
        try:
            async with asyncio.timeout(min(limits.first_byte, limits.whole)):
                response = await self._send(request)
        except TimeoutError as error:
            raise timed_out("first_byte", limits) from error
        stream = HttpStream(response, limits, started, loop)
        if response.status != 200:
            raise await _refused(endpoint, stream, response)
        return stream

    async def _send(self, request: HttpRequest) -> aiohttp.ClientResponse:
        endpoint = request.endpoint
        connect = endpoint.limits.connect
        headers = {"Accept-Encoding": "identity", "User-Agent": "llmchatbot", **endpoint.headers, **request.headers}
        try:
            return await self._session(endpoint.keep_alive).request(
                request.method,
                request.url,
                data=request.body or None,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect),
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise timed_out("connect", endpoint.limits) from error
        except TimeoutError:
            raise
        except aiohttp.ClientResponseError as error:
            raise ModelProtocolError(f"What answers at {endpoint.url_setting} does not speak HTTP.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            _log.warning("upstream unreachable host=%s error=%s", endpoint.host, type(error).__name__)
            raise ModelUnavailable(
                f"The model's service cannot be reached; is it running, and is {endpoint.url_setting} right?"
            ) from error

    async def aclose(self) -> None:
        """Close every connection. Idempotent; later calls raise ModelUnavailable."""
        self._closed = True
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()


async def _refused(endpoint: Endpoint, stream: HttpStream, response: aiohttp.ClientResponse) -> ModelError:
    """Read the refusal, bounded in size and time, and translate it."""
    try:
        body = await stream.read_all(_MAX_REFUSAL)
    except ModelError:
        body = b""
    finally:
        await stream.aclose()
    return refusal(endpoint, response.status, response.headers, body)


class HttpStream:
    """The body of one answer, read piece by piece under the time limits.

    One timer per call, not per piece: it looks when the reader began to wait and sleeps again if that was lately.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        limits: TimeLimits,
        started: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._response = response
        self._content = response.content
        self._limits = limits
        self._loop = loop
        self._chunk_limit = limits.chunk
        self._whole_at = started + limits.whole
        self._first_at = min(started + limits.first_byte, self._whole_at)
        self._waiting_since: float | None = None
        self._got_first = False
        self._timeout: ModelTimeout | None = None
        self._timer = loop.call_at(self._first_at, self._check)

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers, names without regard to case."""
        return self._response.headers

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; b"" at the proper end of the body.

        Raises ModelTimeout for a limit passed, ModelInterrupted when the connection broke.
        """
        self._waiting_since = self._loop.time()
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            if self._timeout is not None:
                raise self._timeout from error
            raise ModelInterrupted("The connection to the model broke off before the answer's end.") from error
        self._waiting_since = None
        if not self._got_first:
            self._got_first = True
            self._look_again_in(self._chunk_limit)
        return chunk

    async def read_all(self, limit: int) -> bytes:
        """Read the body up to `limit` bytes, for refusals and small documents."""
        parts: list[bytes] = []
        size = 0
        while size < limit:
            chunk = await self.read()
            if not chunk:
                break
            parts.append(chunk)
            size += len(chunk)
        return b"".join(parts)[:limit]

    def expect_end(self, seconds: float) -> None:
        """The answer's end was announced: wait no longer than `seconds` for each further piece."""
        if seconds < self._chunk_limit:
            self._chunk_limit = seconds
            self._look_again_in(seconds)

    def _look_again_in(self, seconds: float) -> None:
        """The limit became shorter than what the timer was set for."""
        self._timer.cancel()
        self._timer = self._loop.call_at(min(self._loop.time() + seconds, self._whole_at), self._check)

    def _check(self) -> None:
        """Raise the limit that has passed into the waiting reader, or look again when the next one could pass."""
        now = self._loop.time()
        which: Which | None = None
        if now >= self._whole_at:
            which = "whole"
        elif not self._got_first:
            which = "first_byte" if now >= self._first_at else None
        elif self._waiting_since is not None and now - self._waiting_since >= self._chunk_limit:
            which = "chunk"
        if which is not None:
            self._timeout = timed_out(which, self._limits)
            self._content.set_exception(aiohttp.ServerTimeoutError(which))
            return
        since = now if self._waiting_since is None else self._waiting_since
        due = self._first_at if not self._got_first else since + self._chunk_limit
        self._timer = self._loop.call_at(min(due, self._whole_at), self._check)

    async def aclose(self) -> None:
        """Close the connection and return once the socket is gone; even when cancelled meanwhile. Idempotent."""
        self._timer.cancel()
        connection = self._response.connection
        if connection is None:
            self._response.close()
            return
        protocol = connection.protocol
        closed = protocol.closed if protocol is not None else None
        if protocol is not None:
            # abort, not close: TLS would first say good-bye and wait for the other side's
            protocol.abort()
        self._response.close()
        if closed is not None:
            await _wait_shielded(closed)


async def _wait_shielded(closed: asyncio.Future[None]) -> None:
    waiter = asyncio.ensure_future(asyncio.wait({closed}, timeout=_CLOSE_SECONDS))
    try:
        await asyncio.shield(waiter)
    except asyncio.CancelledError:
        await waiter
        raise
    finally:
        if closed.done():
            with contextlib.suppress(asyncio.CancelledError):
                closed.exception()


def require_stream(endpoint: Endpoint, head: bytes, *, json_lines: bool) -> None:
    """Raise what stands in a body that is a page or a JSON document although a stream was asked for.

    `head` is the first piece of the body. No event stream begins with `<` or `{`; JSON lines do begin with `{`.
    """
    start = head.lstrip()[:1]
    if start == b"<" or (not json_lines and start in {b"{", b"["}):
        raise in_band(endpoint, head)
