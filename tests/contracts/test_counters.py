"""One contract, two implementations: counting attempts over all processes (PostgreSQL, Redis)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from llmchatbot.database.pool import Database
from llmchatbot.models.rate_limits import Quota, Tally
from llmchatbot.services.rate_limits import Counters, Keyed, PostgresCounters
from llmchatbot.services.rate_limits_redis import RedisCounters

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUOTA = Quota(policy="login", limit=5, period=3600)


@pytest.fixture
async def redis_client(tmp_path: Path) -> AsyncIterator[redis.asyncio.Redis]:
    """A server of its own on a Unix socket; skipped where there is no redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here")
    socket = tmp_path / "redis.sock"
    server = await asyncio.create_subprocess_exec(
        *(program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    client = redis.asyncio.Redis(unix_socket_path=str(socket))
    try:
        for _ in range(1000):
            if await answers(client):
                break
            await asyncio.sleep(0.01)
        yield client
    finally:
        await client.aclose()
        server.terminate()
        await server.wait()


async def answers(client: redis.asyncio.Redis) -> bool:
    try:
        return bool(await client.ping())
    except (RedisConnectionError, FileNotFoundError):
        return False


class Forbidden:
    """A fallback that must not be needed."""

    async def hit(self, wanted: Sequence[Keyed], now: datetime) -> list[Tally]:
        raise AssertionError("fell back")

    async def take_back(self, wanted: Sequence[Keyed], now: datetime) -> None:
        raise AssertionError("fell back")


async def hit(counters: Counters, key: str, now: datetime = NOW) -> Tally:
    [tally] = await counters.hit([(key, QUOTA)], now)
    return tally


@pytest.fixture(params=["postgres", "redis"])
def counters(request: pytest.FixtureRequest) -> Counters:
    if request.param == "redis":
        return RedisCounters(request.getfixturevalue("redis_client"), Forbidden())
    return PostgresCounters(request.getfixturevalue("db"))


async def test_the_limit_is_reached_and_told(counters: Counters) -> None:
    tallies = [await hit(counters, "ada") for _ in range(7)]
    assert [tally.allowed for tally in tallies] == [True] * 5 + [False] * 2
    assert [tally.used for tally in tallies] == [0, 1, 2, 3, 4, 5, 5]
    assert 3600 <= tallies[-1].retry_after <= 3900


async def test_keys_are_apart(counters: Counters) -> None:
    for _ in range(5):
        await hit(counters, "ada")
    assert (await hit(counters, "bob")).allowed


async def test_at_most_the_limit_in_any_stretch_of_the_period(counters: Counters) -> None:
    """Not merely in each window: an attempt counts for a whole period, wherever windows begin."""
    allowed: list[datetime] = []
    now = NOW + timedelta(minutes=59)
    for _ in range(150):
        if (await hit(counters, "ada", now)).allowed:
            allowed.append(now)
        now += timedelta(seconds=97)
    assert len(allowed) > 10
    for start in allowed:
        assert sum(start <= moment < start + timedelta(hours=1) for moment in allowed) <= QUOTA.limit


async def test_retry_after_is_true(counters: Counters) -> None:
    for _ in range(5):
        await hit(counters, "ada")
    wait = (await hit(counters, "ada")).retry_after
    assert not (await hit(counters, "ada", NOW + timedelta(seconds=wait - 1))).allowed
    assert (await hit(counters, "ada", NOW + timedelta(seconds=wait))).allowed


async def test_what_is_taken_back_does_not_count(counters: Counters) -> None:
    for _ in range(20):
        assert (await hit(counters, "ada")).allowed
        await counters.take_back([("ada", QUOTA)], NOW)
    assert (await hit(counters, "ada")).used == 0


async def test_taking_back_never_goes_below_zero(counters: Counters) -> None:
    for _ in range(3):
        await counters.take_back([("ada", QUOTA)], NOW)
    tallies = [await hit(counters, "ada") for _ in range(6)]
    assert sum(tally.allowed for tally in tallies) == 5


async def test_of_fifty_at_once_exactly_the_limit_pass(counters: Counters) -> None:
    tallies = await asyncio.gather(*(hit(counters, "ada") for _ in range(50)))
    assert sum(tally.allowed for tally in tallies) == QUOTA.limit


async def test_several_are_counted_all_or_none(counters: Counters) -> None:
    narrow = Quota(policy="narrow", limit=2, period=60)
    wanted = [("wide", QUOTA), ("narrow", narrow)]
    for _ in range(4):
        tallies = await counters.hit(wanted, NOW)
    assert [tally.allowed for tally in tallies] == [True, False]
    assert [tally.used for tally in tallies] == [2, 2]
    await counters.take_back(wanted, NOW)
    assert [tally.used for tally in await counters.hit(wanted, NOW)] == [1, 1]


async def test_several_keys_in_any_order_at_once_do_not_deadlock(counters: Counters) -> None:
    keys = [("a", QUOTA), ("b", QUOTA), ("c", QUOTA)]
    orders = [keys, keys[::-1], [keys[1], keys[0], keys[2]]] * 10
    answers = await asyncio.gather(*(counters.hit(order, NOW) for order in orders))
    assert sum(all(tally.allowed for tally in tallies) for tallies in answers) == QUOTA.limit


async def test_without_redis_postgresql_counts(db: Database, tmp_path: Path) -> None:
    client = redis.asyncio.Redis(unix_socket_path=str(tmp_path / "nobody-listens"))
    counters = RedisCounters(client, PostgresCounters(db))
    tallies = [await hit(counters, "ada") for _ in range(6)]
    await counters.take_back([("ada", QUOTA)], NOW)
    assert sum(tally.allowed for tally in tallies) == 5
    assert (await hit(counters, "ada")).allowed
    await client.aclose()
