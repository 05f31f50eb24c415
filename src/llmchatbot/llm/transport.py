"""HTTP to the upstreams: which way a call takes, what is refused, what its time limits are.

No redirect is followed, no cookie kept, no proxy of the environment used (unless set): the key goes to its own origin
and nowhere else. Closing closes the socket before it returns, so "stopped" is never said while the model still works.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmchatbot.errors import ModelError, ModelMisconfigured, ModelUnavailable
from llmchatbot.llm.body import HttpStream, timed_out
from llmchatbot.llm.collector import Collector
from llmchatbot.llm.connection_pool import DirectConnections
from llmchatbot.llm.endpoint import Endpoint
from llmchatbot.llm.http_errors import in_band, refusal
from llmchatbot.llm.http_request import HttpRequest

if TYPE_CHECKING:
    from llmchatbot.llm.proxied import ProxiedConnections

__all__ = ["HttpRequest", "HttpStream", "HttpTransport", "require_stream", "timed_out"]

_MAX_REFUSAL = 64 * 1024


class HttpTransport:
    """Opens streams. One per gateway."""

    def __init__(self, *, trust_environment_proxies: bool = False) -> None:
        self.collector = Collector()
        """Who asks it for what has come saves a wake-up for each piece; see there."""
        self._connections: DirectConnections | ProxiedConnections
        if trust_environment_proxies:
            from llmchatbot.llm.proxied import ProxiedConnections  # noqa: PLC0415 # aiohttp: a fifth of the whole import

            self._connections = ProxiedConnections()
        else:
            self._connections = DirectConnections(self.collector)
        self._closed = False

    async def open(self, request: HttpRequest) -> HttpStream:
        """Send the request and return its body as a stream once a 200 came.

        Raises ModelTimeout, ModelUnavailable, or what `http_errors.refusal` makes of any other status.
        """
        endpoint = request.endpoint
        endpoint.require_own_origin(request.url)
        if endpoint.key_setting and not endpoint.key:
            raise ModelMisconfigured(f"This model needs a key; set {endpoint.key_setting}.")
        if self._closed:
            raise ModelUnavailable("The connection to the model's service was closed: the process is stopping.")
        limits = endpoint.limits
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(limits.first_byte, limits.whole)):
                stream = await self._connections.open(request, started)
        except TimeoutError as error:
            raise timed_out("first_byte", limits) from error
        if stream.status != 200:
            raise await _refused(endpoint, stream)
        return stream

    async def aclose(self) -> None:
        """Close every connection. Idempotent; later calls raise ModelUnavailable."""
        self._closed = True
        await self._connections.aclose()
        self.collector.close()


async def _refused(endpoint: Endpoint, stream: HttpStream) -> ModelError:
    """Read the refusal, bounded in size and time, and translate it."""
    try:
        body = await stream.read_all(_MAX_REFUSAL)
    except ModelError:
        body = b""
    finally:
        await stream.aclose()
    return refusal(endpoint, stream.status, stream.headers, body)


def require_stream(endpoint: Endpoint, head: bytes, *, json_lines: bool) -> None:
    """Raise what stands in a body that is a page or a JSON document although a stream was asked for.

    `head` is the first piece of the body. No event stream begins with `<` or `{`; JSON lines do begin with `{`.
    """
    start = head.lstrip()[:1]
    if start == b"<" or (not json_lines and start in {b"{", b"["}):
        raise in_band(endpoint, head)
