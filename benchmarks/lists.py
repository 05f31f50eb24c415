"""Ordinary reads: the list of chats beside the peers, and how reads of one person fare while the database grows."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec

from benchmarks import accounts, seed, toolchain
from benchmarks.accounting import cost_of
from benchmarks.client.plan import Plan, Target
from benchmarks.measure import LEAD, sample_of
from benchmarks.processes import BenchmarkError, child, port_of, run_client, wait_until_healthy
from benchmarks.progress import Progress
from benchmarks.records import Sample
from benchmarks.scenes import HISTORY_SIZES, ListScene
from benchmarks.subjects import PEERS, Running, serve_ours
from llmchatbot.database.address import Address
from llmchatbot.database.creation import prepare
from llmchatbot.database.embedded import EmbeddedPostgres

LABELS = {
    "go_list": "Go gin + pgx, no authentication",
    "fastapi_list": "FastAPI + SQLAlchemy ORM, no authentication",
    "ours": "this product, authenticated",
}
CHATS = "/api/v1/chats?limit=20"
QUIET_UPSTREAM = "http://127.0.0.1:9"
"""Nobody listens there, and nobody asks for an answer in these scenes."""


def weight(scene: ListScene) -> float:
    """Seconds it will take, roughly."""
    reads = 4 if scene.messages else 1
    return scene.rounds * len(scene.subjects) * (scene.window * reads + 3) + 6 + scene.messages / 8000


class Bench:
    """A PostgreSQL of the benchmark's own that every contender reads from."""

    def __init__(self, server: EmbeddedPostgres, address: Address, folder: Path) -> None:
        self.server = server
        self.address = address
        self.data_dir = folder / "ours"
        self.authorization = ""
        self.user = UUID(int=0)
        self.long_chat = UUID(int=0)

    def environment(self) -> dict[str, str]:
        return {
            "DB_HOST": self.address.host,
            "DB_PORT": str(self.address.port),
            "DB_USER": self.address.user,
            "DB_NAME": self.address.database,
            "DB_SSLMODE": "disable",
            "JWT_ACCESS_TOKEN_EXPIRY": "24h",
        }

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(**self.address.connect_arguments())

    async def register(self) -> None:
        """The measured person, through the API; the token outlives the run."""
        async with (
            serve_ours(QUIET_UPSTREAM, env=self.environment(), data_dir=self.data_dir) as running,
            accounts.session_to(running.port) as session,
        ):
            email, self.authorization = await accounts.register(session)
        connection = await self.connect()
        self.user = await connection.fetchval("SELECT id FROM users WHERE email = $1", email)
        await connection.close()


@asynccontextmanager
async def bench(*, with_account: bool) -> AsyncIterator[Bench]:
    """A migrated, empty database on a server with the product's own settings."""
    with tempfile.TemporaryDirectory(prefix="llmchatbot-bench-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        server = EmbeddedPostgres(folder / "data")
        address = await server.start()
        try:
            await prepare(address)
            made = Bench(server, address, folder)
            if with_account:
                await made.register()
            yield made
        finally:
            await server.stop()


@asynccontextmanager
async def _contender(name: str, place: Bench) -> AsyncIterator[Running]:
    if name == "ours":
        async with serve_ours(QUIET_UPSTREAM, env=place.environment(), data_dir=place.data_dir) as running:
            running.targets = [Target(CHATS, place.authorization)]
            yield running
        return
    address = place.address
    if name == "go_list":
        binary = await asyncio.to_thread(toolchain.go_program, name)
        if binary is None:
            raise BenchmarkError("no Go toolchain, or not Debian's gin and pgx")
        where = f"host={address.host} port={address.port} user={address.user} dbname={address.database}"
        argv: list[str | Path] = [binary, "-dsn", f"{where} sslmode=disable"]
    else:
        argv = [await asyncio.to_thread(toolchain.peer_python), PEERS / f"{name}.py"]
    url = f"postgresql+asyncpg://{address.user}@/{address.database}?host={address.host}&port={address.port}"
    async with child(name, argv, env={"DATABASE_URL": url}) as process:
        port = await port_of(name, process)
        await wait_until_healthy(name, port)
        yield Running(port=port, pid=process.pid, targets=[Target(f"/api/v1/chats?user={place.user}")])


class _Reading(msgspec.Struct, frozen=True):
    """What is measured once: a scene, a contender, a round."""

    scene: str
    subject: str
    round: int
    window: float


async def _measure(reading: _Reading, running: Running, place: Bench, target: Target) -> Sample:
    start = time.monotonic() + LEAD
    plan = Plan(
        mode="requests",
        port=running.port,
        targets=[target],
        start=start,
        window_from=start + 0.7,
        window_to=start + 0.7 + reading.window,
        deadline=start + reading.window + 4,
    )
    database = place.server.pid or os.getpid()
    task = asyncio.create_task(run_client(plan))
    await asyncio.sleep(max(0.0, plan.window_from - time.monotonic()))
    before, database_before = cost_of(running.pid), cost_of(database)
    await asyncio.sleep(max(0.0, plan.window_to - time.monotonic()))
    after, database_after = cost_of(running.pid), cost_of(database)
    outcome = await task
    memory = cost_of(running.pid, memory=True)
    return sample_of(
        scene=reading.scene,
        subject=reading.subject,
        round_=reading.round,
        seconds=reading.window,
        units=outcome.answers,
        before=msgspec.structs.replace(before, database_cpu=database_before.database_cpu),
        after=msgspec.structs.replace(after, database_cpu=database_after.database_cpu, rss=memory.rss, pss=memory.pss),
        outcome=outcome,
    )


async def measure(scene: ListScene, progress: Progress, notes: list[str], *, only: Sequence[str] = ()) -> list[Sample]:
    """All rounds of one scene. What cannot run is noted and left out."""
    names = [name for name in scene.subjects if not only or name in only]
    if not names:
        return []
    try:
        async with bench(with_account="ours" in names) as place:
            if scene.messages:
                return await _growing(scene, place, progress)
            progress.show(f"{scene.title}: filling the database")
            await _fill_chats(place)
            return await _rotating(scene, names, place, progress, notes)
    except BenchmarkError as error:
        notes.append(f"{scene.title}: {error}")
        return []


async def _fill_chats(place: Bench) -> None:
    connection = await place.connect()
    try:
        if place.user.int == 0:
            place.user = (await seed.add_owners(connection, 1, seed=99))[0]
        await seed.add_chats(connection, place.user, 100_000)
    finally:
        await connection.close()


async def _rotating(
    scene: ListScene, names: Sequence[str], place: Bench, progress: Progress, notes: list[str]
) -> list[Sample]:
    samples = []
    for round_ in range(scene.rounds):
        turn = round_ % len(names)
        for name in (*names[turn:], *names[:turn]):
            progress.show(f"{scene.title}: {LABELS[name]}, round {round_ + 1} of {scene.rounds}")
            try:
                async with _contender(name, place) as running:
                    reading = _Reading(scene.name, name, round_, scene.window)
                    samples.append(await _measure(reading, running, place, running.targets[0]))
            except BenchmarkError as error:
                notes.append(f"{LABELS[name]}, {scene.title}: {error}")
            progress.advance(scene.window + 3)
    return samples


async def _growing(scene: ListScene, place: Bench, progress: Progress) -> list[Sample]:
    """The same reads of the same person while other people's messages grow tenfold and tenfold."""
    samples = []
    connection = await place.connect()
    try:
        place.long_chat = (await seed.add_measured_messages(connection, place.user)).long_chat
        present = seed.MEASURED_MESSAGES
        for size in [size for size in HISTORY_SIZES if size <= scene.messages]:
            progress.show(f"{scene.title}: filling up to {size:,} messages")
            await seed.add_foreign_messages(connection, present, size)
            present = size
            for round_ in range(scene.rounds):
                async with _contender("ours", place) as running:
                    for what, path in _reads(place).items():
                        progress.show(f"{what} at {size:,} messages")
                        reading = _Reading(f"{what}-{size}", "ours", round_, scene.window)
                        target = Target(path, place.authorization)
                        samples.append(await _measure(reading, running, place, target))
                progress.advance(scene.window * 4 + 3)
    finally:
        await connection.close()
    return samples


def _reads(place: Bench) -> dict[str, str]:
    chat = f"/api/v1/chats/{place.long_chat}"
    return {
        "list": CHATS,
        "page": f"{chat}/messages?limit=50",
        "history": f"{chat}?include_messages=true",
        "search": f"/api/v1/search?q={seed.RARE_WORD}",
    }
