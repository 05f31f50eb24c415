"""Passwords: bounded argon2id, the same work for unknown people, common ones refused."""

from __future__ import annotations

import asyncio
import threading

import argon2
import pytest

from llmchatbot.errors import Unavailable
from llmchatbot.security import CommonPasswords, PasswordHasher


class SlowHasher(PasswordHasher):
    """Threads stand still until they are let go."""

    def __init__(self, *, threads: int, queue: int) -> None:
        super().__init__(threads=threads, queue=queue, memory_kib=8, passes=1)
        self.go = threading.Event()

    def _fits(self, stored: str, password: str) -> bool:
        self.go.wait(10)
        return super()._fits(stored, password)


async def test_parameters_are_owasp_minimum() -> None:
    hasher = PasswordHasher()
    stored = await hasher.hash("correct horse")
    parameters = argon2.extract_parameters(stored)
    assert (parameters.type, parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (
        argon2.Type.ID,
        19_456,
        2,
        1,
    )
    assert await hasher.verify(stored, "correct horse")
    assert not await hasher.verify(stored, "correct Horse")
    hasher.close()


async def test_nobody_has_a_password_that_fits() -> None:
    hasher = PasswordHasher(memory_kib=8, passes=1)
    assert not await hasher.verify(None, "")
    assert not await hasher.verify("not a hash", "")
    hasher.close()


async def test_unknown_people_cost_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = PasswordHasher(memory_kib=8, passes=1)
    stored = await hasher.hash("correct horse")
    verified: list[str] = []
    genuine = PasswordHasher._fits

    def counted(self: PasswordHasher, stored: str, password: str) -> bool:
        verified.append(stored)
        return genuine(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "_fits", counted)
    await hasher.verify(stored, "wrong horse")
    await hasher.verify(None, "wrong horse")
    known, unknown = (argon2.extract_parameters(one) for one in verified)
    assert known == unknown
    hasher.close()


async def test_hashes_of_old_parameters_are_recognised() -> None:
    old, new = PasswordHasher(memory_kib=8, passes=1), PasswordHasher(memory_kib=16, passes=1)
    stored = await old.hash("correct horse")
    assert await new.verify(stored, "correct horse")
    assert new.needs_rehash(stored)
    assert not old.needs_rehash(stored)
    old.close()
    new.close()


async def test_a_full_queue_answers_503_at_once_and_recovers() -> None:
    hasher = SlowHasher(threads=1, queue=2)
    waiting = [asyncio.create_task(hasher.verify(None, "x")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await hasher.verify(None, "x")
    assert refused.value.headers["Retry-After"] == "2"
    hasher.go.set()
    await asyncio.gather(*waiting)
    assert not await hasher.verify(None, "x")
    hasher.close()


async def test_clients_that_go_away_leave_no_place_taken() -> None:
    hasher = SlowHasher(threads=1, queue=1)
    for _ in range(5):
        waiting = [asyncio.create_task(hasher.verify(None, "x")) for _ in range(2)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        hasher.go.set()
        await until_both_places_are_free(hasher)
        hasher.go.clear()
    hasher.close()


async def until_both_places_are_free(hasher: PasswordHasher) -> None:
    async with asyncio.timeout(5):
        while True:
            results = await asyncio.gather(*(hasher.verify(None, "x") for _ in range(2)), return_exceptions=True)
            if results == [False, False]:
                return


def test_common_passwords_are_known_in_any_case() -> None:
    common = CommonPasswords()
    for password in ("password1", "PassWord1", "12345678", "qwertyuiop", "iloveyou", "aaaaaaaaaa", "Summer2024!"):
        assert password in common
    assert "correct horse battery" not in common


def test_the_list_of_common_passwords_is_long_enough() -> None:
    """ASVS 5.0, 6.2.4: at least the top 3,000 of those that the policy would let pass."""
    entries = CommonPasswords()._entries
    assert len(entries) >= 3000
    assert all(8 <= len(entry) <= 256 and entry == entry.casefold() for entry in entries)
