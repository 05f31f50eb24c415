"""Download one large file over connections that break: size and sum first, resume by Range, checksum at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.part_file import PartFile, Source, sum_in

_BLOCK = 1 << 20
_MAX_REDIRECTS = 5
_LONGEST_PAUSE = 30.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LINKED_SIZE, _LINKED_ETAG = "X-Linked-Size", "X-Linked-ETag"
"""Hugging Face's redirect to its storage names size and SHA-256 of the file in these."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those that will be; 0: not known."""


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before a byte of the file is read."""

    url: str
    size: int  # bytes; 0: not said
    sha256: str  # "": not known


class _CutError(Exception):
    """The connection broke, or the server is busy: worth another try."""


class Downloader:
    """Asks nobody and prints nothing: that is the command's part."""

    def __init__(
        self, session: aiohttp.ClientSession, *, attempts: int = 5, pause: float = 1.0, chunk_timeout: float = 30.0
    ) -> None:
        """`attempts`: tries in a row that bring no new byte. `pause`, `chunk_timeout`: seconds."""
        self._session = session
        self._attempts, self._pause = attempts, pause
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=chunk_timeout)

    async def look(self, url: str, *, sha256: str = "", size: int = 0) -> RemoteFile:
        """Size and sum. Raises StartupError, also when the server's size is not the one expected (`size`, bytes)."""
        failures = 0
        while True:
            try:
                remote = await self._look(url)
                break
            except _CutError as error:
                failures += 1
                if failures >= self._attempts:
                    raise StartupError(f"{_host(url)} cannot be reached: {error}.") from error
                await self._rest(failures)
        if size and remote.size and size != remote.size:
            raise StartupError(
                f"{_host(url)} offers {remote.size:,} bytes where the catalogue says {size:,}: it is another file now."
            )
        return RemoteFile(url=url, size=remote.size or size, sha256=sha256 or remote.sha256)

    async def fetch(self, remote: RemoteFile, target: Path, progress: Progress) -> str:
        """Download to `target`; its SHA-256. Raises StartupError; what has arrived stays for the next try."""
        try:
            with PartFile(target) as part:
                part.belongs_to(Source(url=remote.url, size=remote.size))
                part.require_space(remote.size)
                await self._fill(remote, part, progress)
                return await asyncio.to_thread(part.finish, remote.sha256)
        except OSError as error:
            raise StartupError(f"{target} cannot be written: {error.strerror or error}.") from error

    async def _rest(self, failures: int) -> None:
        await asyncio.sleep(min(_LONGEST_PAUSE, self._pause * 2 ** max(0, failures - 1)))

    async def _look(self, url: str) -> RemoteFile:
        async with self._open("HEAD", url, {}, until_linked=True) as response:
            headers = response.headers
            if _LINKED_SIZE in headers:
                return RemoteFile(
                    url=url, size=_number(headers[_LINKED_SIZE]), sha256=sum_in(headers.get(_LINKED_ETAG, ""))
                )
            if response.status not in {403, 405, 501}:
                _require_good(response)
                return RemoteFile(
                    url=url, size=_number(headers.get("Content-Length", "")), sha256=sum_in(headers.get("ETag", ""))
                )
        # Addresses signed for GET refuse HEAD.
        async with self._open("GET", url, {"Range": "bytes=0-0"}) as response:
            _require_good(response)
            headers = response.headers
            whole = headers.get("Content-Range", "").rpartition("/")[2]
            size = whole if response.status == 206 else headers.get("Content-Length", "")
            return RemoteFile(url=url, size=_number(size), sha256=sum_in(headers.get("ETag", "")))

    async def _fill(self, remote: RemoteFile, part: PartFile, progress: Progress) -> None:
        failures = 0
        while True:
            before = part.size
            try:
                await self._append(remote, part, progress)
            except _CutError as error:
                failures = 0 if part.size > before else failures + 1
                if failures >= self._attempts:
                    raise StartupError(
                        f"The download broke off {failures} times in a row ({error}). What is here is kept: "
                        "run the command again to go on from there."
                    ) from error
                await self._rest(failures)
            else:
                return

    async def _append(self, remote: RemoteFile, part: PartFile, progress: Progress) -> None:
        if remote.size and part.size >= remote.size:
            return
        headers = {}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
            if etag := part.source.etag:
                headers["If-Range"] = etag
        async with self._open("GET", remote.url, headers) as response:
            if response.status == 416:
                part.clear()  # more is here than the file has
            _require_good(response)
            if not response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
                part.clear()  # the server cannot resume, or has another file now
            etag = response.headers.get("ETag", "")
            part.belongs_to(Source(url=remote.url, size=remote.size, etag="" if etag.startswith("W/") else etag))
            await _copy(response, remote, part, progress)

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, url: str, headers: dict[str, str], *, until_linked: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Follows redirects itself, never from https to http; with `until_linked` only up to the name of the sum."""
        headers = {**headers, "Accept-Encoding": "identity"}
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                async with self._session.request(
                    method, url, headers=headers, allow_redirects=False, timeout=self._timeout
                ) as response:
                    if response.status not in _REDIRECTS or (until_linked and _LINKED_SIZE in response.headers):
                        yield response
                        return
                    url = _next(url, response.headers.get("Location", ""))
            raise StartupError(f"{_host(url)} redirects in circles.")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _CutError(_reason(error)) from error


async def _copy(response: aiohttp.ClientResponse, remote: RemoteFile, part: PartFile, progress: Progress) -> None:
    async for block in response.content.iter_chunked(_BLOCK):
        part.append(block)
        if remote.size and part.size > remote.size:
            part.clear()
            raise StartupError(f"{_host(remote.url)} sends more than the {remote.size:,} bytes it announced.")
        progress(part.size, remote.size)
    if part.size < remote.size:
        raise _CutError("the connection was closed early")


def _require_good(response: aiohttp.ClientResponse) -> None:
    host, status = response.url.host, response.status
    if status in {408, 416, 425, 429} or status >= 500:
        raise _CutError(f"{host} answers with status {status}")
    if status in {401, 403}:
        raise StartupError(f"{host} wants a login for this file (status {status}): accept its licence there first.")
    if status == 404:
        raise StartupError(f"{host} does not have this file (status 404).")
    if status >= 300:
        raise StartupError(f"{host} answers with status {status}.")


def _next(url: str, location: str) -> str:
    following = urljoin(url, location)
    ways = {("https", "https"), ("http", "https"), ("http", "http")}
    if not location or (urlsplit(url).scheme, urlsplit(following).scheme) not in ways:
        raise StartupError(f"{_host(url)} redirects to an address that is not safe to follow.")
    return following


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing arrived for a while"
    return "no connection" if isinstance(error, aiohttp.ClientConnectorError) else "the connection broke"
