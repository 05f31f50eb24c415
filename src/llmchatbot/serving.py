"""One serving process: the HTTP server on a socket that was bound before, and the drain on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from llmchatbot.config import Settings
from llmchatbot.database.address import Address
from llmchatbot.database.creation import prepare, wait_and_prepare
from llmchatbot.errors import DatabaseUnavailable, StartupError
from llmchatbot.handlers.outermost import refuse_plainly
from llmchatbot.http_server.server import BACKLOG, HttpServer
from llmchatbot.main import create_asgi
from llmchatbot.wiring import open_backend

logger = logging.getLogger(__name__)

# The longest head of a request (protocol §8).
_HEAD_BYTES = 16 * 1024
_STOP_SECONDS = 2.0


def bind(host: str, port: int) -> socket.socket:
    """Raises StartupError when the port is taken or the address is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except PermissionError as error:
        raise StartupError(
            f"Port {port} may not be opened by this user. Set SERVER_PORT to a port above 1023."
        ) from error
    except OSError as error:
        raise StartupError(
            f"Port {port} on {host} cannot be opened: {error.strerror or error}.\n"
            f"Is another server running? Stop it, or choose another port: SERVER_PORT={port + 1}"
        ) from error
    return bound


def tame_garbage_collector() -> None:
    """Most objects of a stream die by reference count; looking for cycles every 700 of them cost a tenth of the CPU.

    What was imported lives for ever and is not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def serve(
    settings: Settings,
    address: Address,
    bound: socket.socket,
    *,
    environment: Mapping[str, str] | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, drain, return. Raises StartupError when the database refuses for good."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    tame_garbage_collector()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    async with AsyncExitStack() as stack:
        preparing = await _prepare_or_wait(address, stack)
        backend = await open_backend(settings, address, stack, environment=environment)
        server = HttpServer(
            create_asgi(backend),
            refusal=refuse_plainly,
            head_seconds=settings.server.idle_timeout,
            head_bytes=_HEAD_BYTES,
            send_seconds=settings.stream.send_timeout,
        )
        await server.listen(bound)
        on_ready()
        try:
            await _until_told_to_stop(stopping, preparing)
            for signal_number in (signal.SIGTERM, signal.SIGINT):
                # A second signal means: at once.
                loop.add_signal_handler(signal_number, os._exit, 130)
            await backend.drain()
        finally:
            # A refused connection goes to another node at once; in the queue of a socket that nobody serves it waits.
            bound.close()
            await server.close(timeout=_STOP_SECONDS)


async def _prepare_or_wait(address: Address, stack: AsyncExitStack) -> asyncio.Task[None] | None:
    """The schema; without a database the process starts all the same and becomes ready when there is one."""
    try:
        await prepare(address)
    except DatabaseUnavailable as error:
        logger.warning("%s Starting without it; /health/ready answers 503 until it is there.", error)
        waiting = asyncio.create_task(wait_and_prepare(address), name="wait for the database")
        stack.callback(waiting.cancel)
        return waiting
    return None


async def _until_told_to_stop(stopping: asyncio.Event, preparing: asyncio.Task[None] | None) -> None:
    """Raises what ended the wait for the database before anybody asked for it."""
    told = asyncio.create_task(stopping.wait(), name="signal")
    watched: set[asyncio.Task[Any]] = {told, *([preparing] if preparing is not None else [])}
    while True:
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if told in done:
            return
        for task in done:
            task.result()
        watched -= done
