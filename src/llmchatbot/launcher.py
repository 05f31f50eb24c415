"""`llmchatbot serve`: secrets, the embedded database, the socket, and one or several serving processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from llmchatbot.config import Settings, read_environment
from llmchatbot.database.address import Address
from llmchatbot.database.embedded import EmbeddedPostgres
from llmchatbot.errors import StartupError
from llmchatbot.wiring import with_secret

logger = logging.getLogger(__name__)

# What a worker process is told by its parent.
_ADDRESS_VARIABLE = "LLMCHATBOT_WORKER_ADDRESS"
_SOCKET_VARIABLE = "LLMCHATBOT_WORKER_SOCKET"
# Both ends of one connection: a worker says that it is ready, and sees its parent's death.
_LIFELINE_VARIABLE = "LLMCHATBOT_WORKER_LIFELINE"
_RESTART_PAUSE = 1.0
_LONGEST_RESTART_PAUSE = 30.0
# A worker that has lived for so long did not die of what killed the one before it.
_LASTING_SECONDS = 60.0
_SHORTEST_SECRET = 32
_WATCH_PAUSE = 0.2
# Connections beside the pools: writers, listeners, the doctor.
_SPARE_CONNECTIONS = 20

Say = Callable[[str], None]


def load_or_make_secret(settings: Settings) -> Settings:
    """A secret that was not set is made once and kept in the data directory, readable by its owner alone.

    Raises StartupError when the directory cannot be written, and when what lies there is no secret.
    """
    if settings.auth.jwt_secret:
        return settings
    path = settings.server.data_dir / "jwt_secret"
    try:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        if not path.exists():
            _keep_secret(path)
        secret = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise StartupError(
            f"The secret cannot be kept in {path}: {error.strerror}.\n"
            "Set JWT_SECRET, or DATA_DIR to a folder you may write."
        ) from error
    if len(secret) < _SHORTEST_SECRET:
        raise StartupError(
            f"The secret in {path} is damaged: it is shorter than any that was kept there.\n"
            f"Put the right one back, or: rm {path} (a new one is made, everybody's client refreshes once)."
        )
    return with_secret(settings, secret)


def _keep_secret(path: Path) -> None:
    """Whole or not at all, whenever the power goes; of two processes that start at once, both get the first one's."""
    # Only its owner may read it.
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:
            # A file system without links.
            Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def run(settings: Settings, say: Say) -> int:
    """Serve until a signal. Raises StartupError; returns the exit code."""
    from llmchatbot.serving import bind  # noqa: PLC0415 # the web server is not loaded for the other commands

    settings = load_or_make_secret(settings)
    bound = bind(settings.server.host, settings.server.port)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(bound.close)
        address = Address.of(settings.database)
        if settings.database.embedded:
            address = _start_embedded(settings, stack, say)
        settings = _with_local_model(settings, stack, say)
        if settings.server.workers == 1:
            serve_here(settings, address, bound, on_ready=lambda: say(_greeting(settings, time.monotonic() - began)))
            return 0
        return _run_workers(settings, address, bound, say)


def _start_embedded(settings: Settings, stack: contextlib.ExitStack, say: Say) -> Address:
    connections = settings.server.workers * settings.database.max_connections + _SPARE_CONNECTIONS
    embedded = EmbeddedPostgres(
        settings.server.data_dir,
        bin_dir=settings.database.bin_dir,
        max_connections=connections,
        database=settings.database.name,
        progress=say,
    )
    address = embedded.start_blocking()
    stack.callback(embedded.stop_blocking)
    return address


def _with_local_model(settings: Settings, stack: contextlib.ExitStack, say: Say) -> Settings:
    """A model file that is there, and the extra that runs it, make the local service start as a supervised child.

    A file that was only found and cannot be loaded is said, and the built-in guide answers; one that LOCAL_MODEL names
    must load. Raises StartupError.
    """
    model = settings.model
    if model.service_url and model.local_model:
        say("LOCAL_MODEL is left out, because LLM_SERVICE_URL is set.")
    from llmchatbot.llm_service.discovery import find_local_model  # noqa: PLC0415 # few have one

    path = find_local_model(settings)
    if path is None:
        return settings
    from llmchatbot.llm_service.child import LocalModelThread, settings_for  # noqa: PLC0415

    say(f"Loading the local model {path.name} …")
    child = LocalModelThread(settings_for(path))
    try:
        url, key = child.start_blocking()
    except StartupError as error:
        if model.local_model:
            raise
        say(f"The local model is left out, the built-in guide answers: {error}")
        return settings
    stack.callback(child.stop_blocking)
    local = msgspec.structs.replace(
        model,
        service_url=url,
        service_key=key,
        service_protocol="openai",
        service_model=path.stem,
        service_prefix=True,
    )
    return msgspec.structs.replace(settings, model=local)


def serve_here(
    settings: Settings, address: Address, bound: socket.socket, *, on_ready: Callable[[], None] = lambda: None
) -> None:
    """One serving process: this one."""
    import uvloop  # noqa: PLC0415 # only where a loop is run

    from llmchatbot.serving import serve  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, address, bound, environment=read_environment(), on_ready=on_ready))


def serve_as_worker(settings: Settings) -> None:
    """The entry of a worker: its parent has bound the socket and started the database."""
    address = msgspec.json.decode(os.environ[_ADDRESS_VARIABLE], type=Address)
    bound = socket.socket(fileno=int(os.environ[_SOCKET_VARIABLE]))
    lifeline = socket.socket(fileno=int(os.environ[_LIFELINE_VARIABLE]))
    threading.Thread(target=_end_with_parent, args=(lifeline,), name="lifeline", daemon=True).start()
    serve_here(settings, address, bound, on_ready=lambda: lifeline.sendall(b"r"))


def _end_with_parent(lifeline: socket.socket) -> None:
    """Whoever kills the parent wants to start it again: then its port must be free. As in any crash, the answers of
    this worker are taken over once its lease has run out."""
    # A parent that had not read yet who is ready leaves a reset behind instead of an end.
    with contextlib.suppress(ConnectionError):
        lifeline.recv(1)
    logger.error("the process that started this worker is gone; ending")
    os._exit(1)


def _run_workers(settings: Settings, address: Address, bound: socket.socket, say: Say) -> int:
    """Keep N workers until a signal; one that dies is started again, its answers are taken over by the others.

    The first goes ahead: what keeps it from starting is said once, and ends the whole.
    """
    # A plain list: an event's lock could be held by the very loop that the handler interrupts.
    signals: list[int] = []
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    workers = [_start_worker(settings, address, bound, theirs)]

    def note(signal_number: int, frame: object) -> None:
        signals.append(signal_number)
        if len(signals) > 1:
            # A second signal means: at once.
            _terminate(workers)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    while not signals and workers[0].poll() is None and not _told_ready(ours):
        time.sleep(_WATCH_PAUSE)
    if not signals and workers[0].returncode is None:
        workers.extend(_start_worker(settings, address, bound, theirs) for _ in range(settings.server.workers - 1))
        say(_greeting(settings, None))
        _replace_the_dead(workers, signals, lambda: _start_worker(settings, address, bound, theirs))
    # The last worker that closes its copy closes the port.
    bound.close()
    _terminate(workers)
    # One that was still starting has no handler yet, and nothing to lose.
    return max((abs(code) for worker in workers if (code := worker.wait()) != -signal.SIGTERM), default=0)


def _told_ready(lifeline: socket.socket) -> bool:
    try:
        return bool(lifeline.recv(1))
    except BlockingIOError:
        return False


def _replace_the_dead(
    workers: list[subprocess.Popen[bytes]], signals: list[int], start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Until a signal. The pause before a restart grows while workers die young."""
    pause, restarted = _RESTART_PAUSE, time.monotonic()
    while not signals:
        time.sleep(_WATCH_PAUSE)
        for index, worker in enumerate(workers):
            if worker.poll() is None or signals:
                continue
            logger.error("worker %s ended with code %s; starting another", worker.pid, worker.returncode)
            lasted = time.monotonic() - restarted > _LASTING_SECONDS
            pause = _RESTART_PAUSE if lasted else min(2 * pause, _LONGEST_RESTART_PAUSE)
            restarted = time.monotonic() + pause
            while not signals and time.monotonic() < restarted:
                time.sleep(_WATCH_PAUSE)
            if not signals:
                workers[index] = start()


def _terminate(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGTERM)


def _start_worker(
    settings: Settings, address: Address, bound: socket.socket, lifeline: socket.socket
) -> subprocess.Popen[bytes]:
    bound.set_inheritable(True)
    environment = {
        **os.environ,
        "JWT_SECRET": settings.auth.jwt_secret,
        "LLM_SERVICE_URL": settings.model.service_url,
        "LLM_SERVICE_KEY": settings.model.service_key,
        "LLM_SERVICE_PROTOCOL": settings.model.service_protocol,
        "LLM_SERVICE_MODEL": settings.model.service_model,
        "LLM_SERVICE_PREFIX": str(settings.model.service_prefix).lower(),
        _ADDRESS_VARIABLE: msgspec.json.encode(address).decode(),
        _SOCKET_VARIABLE: str(bound.fileno()),
        _LIFELINE_VARIABLE: str(lifeline.fileno()),
    }
    # A session of its own: Ctrl-C reaches the parent alone, which ends workers first and the database last.
    return subprocess.Popen(
        [sys.executable, "-m", "llmchatbot", "worker"],
        env=environment,
        pass_fds=(bound.fileno(), lifeline.fileno()),
        start_new_session=True,
    )


def _greeting(settings: Settings, seconds: float | None) -> str:
    base = settings.server.public_url or settings.server.local_url
    took = f" after {seconds:.1f} s" if seconds is not None else ""
    data = Path(settings.server.data_dir).absolute()
    return f"""
llmchatbot is ready{took}.

  Page    {base}/
  API     {base}/api/v1
  Docs    {base}/docs
  Health  {base}/health
  Data    {data}

Try it (paste all lines):

  BASE={base}/api/v1
  TOKEN=$(curl -s -X POST $BASE/auth/guest | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')
  AUTH="Authorization: Bearer $TOKEN"; JSON="Content-Type: application/json"
  CHAT=$(curl -s -X POST $BASE/chats -H "$AUTH" -H "$JSON" -d '{{}}' | sed 's/.*"id":"\\([^"]*\\)".*/\\1/')
  curl -N $BASE/chats/$CHAT/messages -H "$AUTH" -H "$JSON" -H "Accept: text/event-stream" \\
    -d '{{"content":"What can you do?"}}'

Stop with Ctrl-C.
"""
