"""A TCP proxy that breaks connections where it is told to: between two bytes, inside an id line, inside an escape.

Who asks for a fault says so in a header of the request (`X-Drill-Fault: cut;id;532`), so that the seed of a client
decides and not the order in which connections happen to arrive. Clients that cannot send headers (a browser's
EventSource) are served by the proxy's own `policy`. Frames are ASCII: a character beyond it is a `\\u` escape on the
wire, and "inside a character" means inside such an escape.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Self

import msgspec

Kind = Literal["none", "cut", "reset", "stall"]
Place = Literal["anywhere", "id", "escape", "frame"]

FAULT_HEADER = "X-Drill-Fault"
_HEADER = re.compile(rb"\r\nx-drill-fault: *(cut|reset|stall);(anywhere|id|escape|frame);(\d{1,9})\r\n", re.IGNORECASE)
# What to look for, and how far behind its first byte the cut lies at the least and at the most.
_PATTERNS: dict[Place, tuple[bytes, int, int]] = {
    "id": (b"\nid: ", 2, 44),
    "escape": (b"\\u", 1, 5),
    "frame": (b"\n\n", 1, 1),
}
PLACES: tuple[Place, ...] = ("anywhere", "id", "escape", "frame")
_STALL_SECONDS = 0.3
_METHODS = (b"GET ", b"POST ")
_CHUNK = 16 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)


class Fault(msgspec.Struct, frozen=True):
    """Break at `place`, looked for from byte `after` of what the server sends, its head included."""

    kind: Kind = "none"
    place: Place = "anywhere"
    after: int = 0

    @property
    def header(self) -> dict[str, str]:
        return {FAULT_HEADER: f"{self.kind};{self.place};{self.after}"} if self.kind != "none" else {}

    @classmethod
    def of(cls, rng: random.Random, reach: int) -> Fault:
        """A random one within `reach` bytes."""
        kind: Kind = rng.choice(("cut", "cut", "reset", "reset", "stall"))
        return cls(kind, rng.choice(PLACES), rng.randrange(reach))


Policy = Callable[[bytes], Fault]


def by_header(head: bytes) -> Fault:
    found = _HEADER.search(head)
    if found is None:
        return Fault()
    kind, place, after = (part.decode().lower() for part in found.groups())
    return msgspec.convert({"kind": kind, "place": place, "after": int(after)}, Fault)


class Splitter:
    """Finds the byte before which a stream is to be broken."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._passed = 0
        self._tail = b""
        self._target: int | None = None
        if fault.kind == "none":
            self._target = -1
        elif fault.place == "anywhere":
            self._target = fault.after

    def split(self, data: bytes) -> int | None:
        """How many bytes of `data` may pass before the break; None when all of them may."""
        if self._target is None:
            self._look(data)
        begin, self._passed = self._passed, self._passed + len(data)
        if self._target is not None and begin <= self._target < self._passed:
            return self._target - begin
        return None

    def _look(self, data: bytes) -> None:
        pattern, least, most = _PATTERNS[self.fault.place]
        window = self._tail + data
        base = self._passed - len(self._tail)
        found = window.find(pattern, max(self.fault.after - base, 0))
        if found >= 0:
            target = base + found + least + self.fault.after % (most - least + 1)
            self._target = max(target, self._passed)
        self._tail = window[-(len(pattern) - 1) :]


class FaultProxy:
    """`async with FaultProxy([("127.0.0.1", 8080)]) as proxy:` gives `proxy.url`. Several targets take turns."""

    def __init__(
        self,
        targets: Sequence[tuple[str, int]],
        *,
        policy: Policy = by_header,
        tls: ssl.SSLContext | None = None,
        is_up: Callable[[tuple[str, int]], bool] = lambda target: True,
        hurry: bool = False,
    ) -> None:
        """`hurry`: readers are told to come back after 15 ms instead of 1.5 s."""
        self.counts: Counter[str] = Counter()
        self._targets = list(targets)
        self._policy = policy
        self._tls = tls
        self._is_up = is_up
        self._hurry = hurry
        self._turn = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, backlog=1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def cuts(self) -> int:
        """Connections that were really broken by a fault."""
        return self.counts["cut"] + self.counts["reset"]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The peer went away, as peers do.
            self.counts["left"] += 1
        except asyncio.CancelledError:
            # Nobody awaits this task but `__aexit__`, which cancelled it.
            self.counts["ended"] += 1
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        splitters = [Splitter(self._policy(head))]
        server_reader, server_writer = await self._connect()
        try:
            server_writer.write(head)
            up = asyncio.create_task(self._up(reader, server_writer, splitters))
            down = asyncio.create_task(self._down(server_reader, writer, splitters))
            try:
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
                if up.done() and not down.done() and not reader.at_eof():
                    await down
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The next target that is up and takes the connection. Raises OSError when none does."""
        self._turn += 1
        turned = [self._targets[(self._turn + step) % len(self._targets)] for step in range(len(self._targets))]
        last: OSError | None = None
        for host, port in sorted(turned, key=lambda target: not self._is_up(target)):
            try:
                name = host if self._tls else None
                return await asyncio.open_connection(host, port, ssl=self._tls, server_hostname=name)
            except OSError as error:
                last = error
        self.counts["refused"] += 1
        raise last or OSError("no target")

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, splitters: list[Splitter]) -> None:
        """A browser asks several times on one connection: each request has its own fault, `splitters[-1]`."""
        while data := await reader.read(_CHUNK):
            if data.startswith(_METHODS):
                splitters.append(Splitter(self._policy(data)))
            writer.write(data)
            await writer.drain()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, splitters: list[Splitter]
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self._hurry:
                # As long as before, so that no length in the stream is wrong.
                data = data.replace(b"retry: 1500\n", b"retry: 0015\n")
            fault, passed = splitters[-1].fault, splitters[-1].split(data)
            if passed is None:
                writer.write(data)
                await writer.drain()
                continue
            writer.write(data[:passed])
            await writer.drain()
            self.counts[fault.kind] += 1
            self.counts[f"at {fault.place}"] += 1
            if fault.kind == "stall":
                await asyncio.sleep(_STALL_SECONDS)
                writer.write(data[passed:])
            elif fault.kind == "reset":
                _reset(writer)
                return
            else:
                break
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
