"""What a connection to a model does while an answer flows, and that all of it is taken back at the end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from llmchatbot.llm.collector import Collector
from llmchatbot.llm.connections import Connection

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="Linux only")


class Plug:
    """The socket of a transport."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.options: list[tuple[int, int, int]] = []

    def fileno(self) -> int:
        return self.near.fileno()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))


class Transport:
    """Knows what it was told."""

    def __init__(self, plug: Plug, *, tls: bool) -> None:
        self.calls: list[str] = []
        self._extra = {"socket": plug, "sslcontext": object() if tls else None}

    def get_extra_info(self, name: str) -> Any:
        return self._extra[name]

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        """Nothing to lose."""


@pytest.fixture
def plug() -> Any:
    near, far = socket.socketpair()
    with near, far:
        yield Plug(near)


def connected(plug: Plug, *, tls: bool = False, asked: bool = True) -> tuple[Connection, Transport, Collector]:
    collector = Collector()
    if asked:
        collector.use(lambda: None)
    connection = Connection(asyncio.get_running_loop(), collector)
    transport = Transport(plug, tls=tls)
    connection.connection_made(cast("asyncio.BaseTransport", transport))
    return connection, transport, collector


@pytest.mark.parametrize(
    ("tls", "asked", "calls"),
    [(False, True, ["pause", "resume"]), (True, True, []), (False, False, [])],
    ids=["collected", "TLS", "nobody asks"],
)
async def test_transport_reads_by_itself_what_nobody_collects(
    plug: Plug, tls: bool, asked: bool, calls: list[str]
) -> None:
    connection, transport, collector = connected(plug, tls=tls, asked=asked)
    connection.flow()
    assert transport.calls == calls[:1]
    connection.ebb()
    assert transport.calls == calls
    collector.close()


async def test_kernel_acknowledges_every_second_piece_once_an_answer_flows(plug: Plug) -> None:
    connection, _, collector = connected(plug)
    assert not plug.options
    connection.flow()
    assert plug.options == [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)]
    collector.close()


async def test_flowing_connection_is_neither_paused_nor_resumed_by_its_body(plug: Plug) -> None:
    """Two who read one socket would tear an answer apart."""
    connection, transport, collector = connected(plug)
    connection.flow()
    connection.flow()
    connection.pause()
    connection.resume()
    assert transport.calls == ["pause"]
    connection.ebb()
    connection.ebb()
    assert transport.calls == ["pause", "resume"]
    collector.close()


@pytest.mark.parametrize("end", ["close", "connection_lost"])
async def test_connection_that_ends_leaves_the_collector(plug: Plug, end: str) -> None:
    connection, _, collector = connected(plug)
    connection.flow()
    if end == "close":
        connection.close()
    else:
        connection.connection_lost(None)
    other, transport, _ = connected(plug)
    other._collector = collector
    other.flow()
    assert transport.calls == ["pause"]
    other.ebb()
    collector.close()
