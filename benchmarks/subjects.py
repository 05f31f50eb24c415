"""The contenders: how each is started, and where its load goes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks import accounts, toolchain
from benchmarks.client.plan import Target
from benchmarks.processes import BenchmarkError, child, free_port, port_of, wait_until_healthy

PEERS = Path(__file__).resolve().parent / "peers"
SERVE = ("-m", "llmchatbot", "serve")
SEND = "/api/v1/chats/{chat}/messages"

OURS_WITHOUT_LIMITS: Mapping[str, str] = {
    # Every check stays on; only the numbers are those of a crowd that comes from one address.
    "MAX_ACTIVE_GENERATIONS": "100000",
    "MAX_STREAMS": "100000",
    "REQUESTS_PER_MINUTE": "100000000",
    "MESSAGES_PER_MINUTE": "100000000",
    "REGISTER_PER_HOUR": "1000000",
    "LOGIN_ATTEMPTS": "1000000",
    "LLM_MAX_CONCURRENT": "100000",
    "LOG_LEVEL": "warning",
    "SERVER_DRAIN_TIMEOUT": "1s",
}


class Running(msgspec.Struct, kw_only=True):
    """A subject that answers."""

    port: int
    pid: int
    """Root of its process tree; 0: nothing of its own is measured."""
    targets: list[Target]
    ready_seconds: float = 0.0


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A contender of the relay scenes."""

    name: str
    label: str
    start: Callable[[str, int], AbstractAsyncContextManager[Running]]
    """Takes the upstream's base URL and the number of chats that are needed."""
    resumes: bool = False


def _same_target(path: str, count: int) -> list[Target]:
    return [Target(path)] * count


@asynccontextmanager
async def _direct(url: str, count: int) -> AsyncIterator[Running]:
    port = int(url.rsplit(":", 1)[1])
    yield Running(port=port, pid=0, targets=_same_target("/v1/chat/completions", count))


@asynccontextmanager
async def _go(url: str, count: int) -> AsyncIterator[Running]:
    binary = toolchain.go_program("go_relay")
    if binary is None:
        raise BenchmarkError("no Go toolchain")
    async with child("go_relay", [binary, "-upstream", url]) as process:
        port = await port_of("go_relay", process)
        yield Running(port=port, pid=process.pid, targets=_same_target(SEND.format(chat=1), count))


def _python_peer(name: str, python: Callable[[], Path]) -> Callable[[str, int], AbstractAsyncContextManager[Running]]:
    @asynccontextmanager
    async def start(url: str, count: int) -> AsyncIterator[Running]:
        async with child(name, [python(), PEERS / f"{name}.py"], env={"UPSTREAM_URL": url}) as process:
            port = await port_of(name, process)
            await wait_until_healthy(name, port)
            yield Running(port=port, pid=process.pid, targets=_same_target(SEND.format(chat=1), count))

    return start


@asynccontextmanager
async def serve_ours(
    url: str,
    *,
    env: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    name: str = "ours",
    program: Sequence[str | Path] = SERVE,
) -> AsyncIterator[Running]:
    """The product as `python -m llmchatbot serve` starts it, on a data directory of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="llmchatbot-bench-", ignore_cleanup_errors=True) as scratch:
        settings = {
            **OURS_WITHOUT_LIMITS,
            "DATA_DIR": str(data_dir or Path(scratch) / "data"),
            "SERVER_PORT": str(port),
            "LLM_SERVICE_URL": url,
            "LLM_SERVICE_PROTOCOL": "openai",
            **(env or {}),
        }
        async with child(name, [sys.executable, *program], env=settings) as process:
            ready = await wait_until_healthy(name, port, "/health")
            yield Running(port=port, pid=process.pid, targets=[], ready_seconds=ready)


def ours(
    env: Mapping[str, str] | None = None, program: Sequence[str | Path] = SERVE
) -> Callable[[str, int], AbstractAsyncContextManager[Running]]:
    """Accounts are made through the API, one for twenty chats; each stream has a chat of its own."""

    @asynccontextmanager
    async def start(url: str, count: int) -> AsyncIterator[Running]:
        async with serve_ours(url, env=env, program=program) as running:
            chats = await accounts.make_chats(running.port, count)
            running.targets = [Target(SEND.format(chat=chat.id), chat.authorization) for chat in chats]
            yield running

    return start


DIRECT = Subject(name="direct", label="no relay: the source itself", start=_direct)
GO = Subject(name="go_relay", label="Go net/http, plain relay", start=_go)
PLAIN = Subject(
    name="plain_relay", label="our parts, bare relay", start=_python_peer("plain_relay", lambda: Path(sys.executable))
)
FASTAPI = Subject(
    name="fastapi_relay", label="FastAPI + httpx", start=_python_peer("fastapi_relay", toolchain.peer_python)
)
UNSTORED = Subject(name="unstored", label="this product, storing no token", start=ours(program=[PEERS / "unstored.py"]))
OURS = Subject(name="ours", label="this product, everything on", start=ours(), resumes=True)
OURS_TWO = Subject(
    name="ours_two", label="this product, two processes", start=ours({"SERVER_WORKERS": "2"}), resumes=True
)

RELAYS = {subject.name: subject for subject in (DIRECT, GO, PLAIN, FASTAPI, UNSTORED, OURS, OURS_TWO)}
