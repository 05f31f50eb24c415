"""Thousands of seeded histories of the core in virtual time, and the proof that they find faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from simulated.database import Rules
from simulated.history import replay
from simulated.virtual_time import NothingToWaitForError, VirtualLoop

from llmchatbot.streaming.followers import Followers
from llmchatbot.streaming.tails import Tail, Tails
from llmchatbot.streaming.writer import Writer

# Several tests, so that several workers share them.
_BATCHES = 8
# Within so many histories every fault must be found.
_ENOUGH = 1500
# Each of these was a fault once.
_KNOWN = {
    502: "the loss of a connection was told to one of its users, and the writer did not hear of it",
    309: "a round refused because its node was not registered yet counted as stored",
    514: "a draft that was lost was written again when the store would take it",
    9544: "a process that had registered again wrote for an answer that was being taken over",
    6591: "what a crash had forgotten was not stored again under the new id of its node",
    401: "what was stored again after a crash was too old to be stored again after the next",
    13807: "a connection was opened again by another user of it between the check and the statement",
    12561: "the failure of one caller cleared what the other had to know",
}


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_every_history_keeps_the_promises(seeds: range, batch: int) -> None:
    for seed in seeds[batch::_BATCHES]:
        violations = replay(seed)
        assert not violations, f"replay with: --first-seed {seed} --seeds 1\n" + "\n".join(violations)


@pytest.mark.parametrize("seed", _KNOWN, ids=list(map(str, _KNOWN)))
def test_fault_that_was_found_once_stays_away(seed: int) -> None:
    assert not replay(seed), _KNOWN[seed]


def test_same_seed_is_the_same_history() -> None:
    broken = Rules(lost_connection=False)
    failing = next(seed for seed in range(_ENOUGH) if replay(seed, broken))
    assert replay(failing, broken) == replay(failing, broken)


def first_failure(rules: Rules | None = None) -> int | None:
    return next((seed for seed in range(_ENOUGH) if replay(seed, rules)), None)


@pytest.mark.parametrize("rule", ["epoch", "conflict", "gap", "own_orphans", "lost_connection"])
def test_rule_of_the_store_that_is_forgotten_is_noticed(rule: str) -> None:
    assert first_failure(Rules(**{rule: False})) is not None


def without_replacing(self: Tails, generation_id: Any) -> None:
    """Dropped, and nobody told."""
    tail = self._tails.pop(generation_id, None)
    if tail is not None:
        tail.wake()


async def without_replay(self: Writer) -> None:
    """Believes that a database that is back has forgotten nothing."""
    self._outage = False


async def without_asking(self: Writer, drafts: Any) -> None:
    """Takes every refusal for a repetition."""


async def without_order(self: Followers, tail: Tail) -> bool:
    """Takes whatever comes, gaps and all."""
    events = await self._store.read(tail.generation_id, tail.last + 2, 1000)
    if events:
        tail.extend(tail.last + 1, [payload for _, payload in events])
    return False


def shown_before_stored(original: Callable[..., Any]) -> Callable[..., Any]:
    async def append(self: Writer, rows: Any, drafts: Any) -> None:
        """Readers first, the database when it has time."""
        for row in rows:
            drafts[row.generation_id].tail.extend(row.seq, [row.payload])
        await original(self, rows, drafts)

    return append


@pytest.mark.parametrize(
    ("part", "name", "fault"),
    [
        (Tails, "drop", without_replacing),
        (Writer, "_store_recent_again", without_replay),
        (Writer, "_mark_lost", without_asking),
        (Followers, "_pull", without_order),
        (Writer, "_append", shown_before_stored(Writer._append)),
    ],
    ids=["readers not sent away", "no replay after a crash", "refusals not asked about", "gaps", "shown before stored"],
)
def test_fault_put_into_the_core_is_noticed(part: type, name: str, fault: Callable[..., Any]) -> None:
    with patch.object(part, name, fault):
        assert first_failure() is not None


@pytest.fixture
def virtual() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        yield runner


def test_time_is_virtual(virtual: asyncio.Runner) -> None:
    async def wait() -> float:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(10 * 3600))
        return asyncio.get_running_loop().time()

    assert virtual.run(wait()) == pytest.approx(36_000)


def test_deadlock_is_noticed(virtual: asyncio.Runner) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingToWaitForError):
        virtual.run(wait())
