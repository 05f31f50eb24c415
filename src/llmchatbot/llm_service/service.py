"""The process: load the model, serve until a signal, drain, leave."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.engine import (
    Engine,
    EngineSettings,
    fitted,
    require_installed,
    require_memory,
)
from llmchatbot.llm_service.front import About, Front
from llmchatbot.llm_service.machine import LOOPBACK, available_memory, require_instructions
from llmchatbot.llm_service.model_file import inspect
from llmchatbot.llm_service.relay import EngineClient

logger = logging.getLogger(__name__)

READY = "LLM service ready on "
"""How the one line on stdout begins; the parent of a supervised child waits for it."""
_ABORT = 0.2
"""Seconds between the end of the drain and the end of whatever is still open."""


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    model: Path
    host: str = "127.0.0.1"
    port: int = 5000
    listen_fd: int | None = None  # a listening socket inherited from the parent, instead of host and port
    key: str = ""
    engine: EngineSettings = EngineSettings()
    waiting: int = 64
    drain: float = 30.0  # seconds


def run(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartupError for what the operator must mend."""
    require_installed()
    require_instructions()
    if not settings.key and settings.listen_fd is None and settings.host not in LOOPBACK:
        raise StartupError(
            f"Without a key the service listens on localhost only, not on {settings.host}.\n"
            "Set LLM_SERVICE_KEY (e.g. from: openssl rand -hex 32), or give --api-key-file."
        )
    model = inspect(settings.model)
    available = available_memory()
    chosen = fitted(model, settings.engine, available)
    require_memory(model, chosen, available)
    listener = _listener(settings)
    with listener:
        engine = Engine(model, chosen)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(_serve(settings, engine, listener))
        finally:
            engine.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it saves a fifth of what the front costs per token."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def _listener(settings: ServiceSettings) -> socket.socket:
    """Bound now, so that a port that is taken is found before a long load; it listens only when the model is there."""
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise StartupError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Choose another with --port."
        ) from error
    return listener


async def _serve(settings: ServiceSettings, engine: Engine, listener: socket.socket) -> None:
    client = EngineClient(engine.url, engine.key, slots=engine.settings.slots, waiting=settings.waiting)
    about = About(
        name=engine.model.name,
        device=engine.device,
        slots=engine.settings.slots,
        context=engine.settings.context,
    )
    front = Front(client, about, key=settings.key)
    # Without handler_cancellation a caller that leaves before the first token would keep its slot.
    runner = web.AppRunner(
        front.application(), handler_cancellation=True, access_log=None, shutdown_timeout=_ABORT, keepalive_timeout=75
    )
    await runner.setup()
    try:
        stop, hurry = _signals()
        await web.SockSite(runner, listener).start()
        _announce(listener, about)
        await stop.wait()
        finished = await front.drain(settings.drain, hurry)
        logger.info("llm service stops drained=%s", finished)
    finally:
        await runner.cleanup()
        await client.close()


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """The first signal asks for a drain; a second one comes from somebody who does not want to wait for it."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def received() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)
    return stop, hurry


def _announce(listener: socket.socket, about: About) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(
        f"{READY}http://{shown}:{port} (model {about.name}, {about.device}, {about.slots} slots of "
        f"{about.context} tokens)\n"
    )
    sys.stdout.flush()
