"""The breaker and the waiting line, with time in the hands of the test."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchatbot.errors import ModelOverloaded, ModelUnavailable
from llmchatbot.llm.fair_queue import FairLimiter, Ticket
from llmchatbot.llm.resilience import CircuitBreaker, RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock, failures=5, window=30, pause=5, max_pause=20)
    for _ in range(5):
        breaker.require_closed()
        breaker.failed()
    return breaker


def test_the_breaker_opens_after_failures_close_together() -> None:
    breaker = opened(Clock())
    assert breaker.open
    with pytest.raises(ModelUnavailable, match="again in 5 s"):
        breaker.require_closed()


def test_failures_far_apart_do_not_open_it() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock, failures=5, window=30)
    for _ in range(50):
        breaker.failed()
        clock.now += 10
    assert not breaker.open


def test_a_few_failures_among_many_good_calls_do_not_open_it() -> None:
    breaker = CircuitBreaker(Clock(), failures=5)
    for _ in range(20):
        breaker.succeeded()
        breaker.succeeded()
        breaker.failed()
    assert not breaker.open


def test_after_the_pause_exactly_one_call_tries() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    breaker.require_closed()
    with pytest.raises(ModelUnavailable):
        breaker.require_closed()
    breaker.succeeded()
    breaker.require_closed()
    assert not breaker.open


def test_a_failed_try_doubles_the_pause_up_to_a_limit() -> None:
    clock = Clock()
    breaker = opened(clock)
    pause = 5.0
    for expected in (10.0, 20.0, 20.0):
        clock.now += pause
        breaker.require_closed()
        breaker.failed()
        clock.now += expected - 1
        with pytest.raises(ModelUnavailable):
            breaker.require_closed()
        clock.now += 1
        pause = 0.0


def test_a_try_that_was_given_up_lets_the_next_one_try() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    breaker.require_closed()
    breaker.abandoned()
    breaker.require_closed()


def test_the_retry_budget_is_a_share_of_the_calls() -> None:
    budget = RetryBudget(calls_per_retry=10, reserve=2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(10):
        budget.called()
    assert [budget.take() for _ in range(2)] == [True, False]


async def test_users_take_turns_however_many_calls_one_of_them_has() -> None:
    limiter = FairLimiter(1)
    running = limiter.join("busy")
    tickets = {f"{user}{number}": limiter.join(user) for number in range(3) for user in ("busy", "a", "b")}
    order: list[str] = []
    assert tickets["busy1"].position() == 4
    assert tickets["b0"].position() == 3
    current = running
    while len(order) < len(tickets):
        current.leave()
        name, current = next((name, ticket) for name, ticket in tickets.items() if ticket.granted and name not in order)
        order.append(name)
    assert order == ["busy0", "a0", "b0", "busy1", "a1", "b1", "busy2", "a2", "b2"]
    current.leave()
    assert (limiter.running, limiter.waiting) == (0, 0)


async def test_one_tab_with_ten_calls_does_not_starve_another_user() -> None:
    limiter = FairLimiter(1)
    running = limiter.join("greedy")
    for _ in range(10):
        limiter.join("greedy")
    modest = limiter.join("modest")
    assert modest.position() == 2
    running.leave()
    assert modest.position() == 1


async def test_a_waiter_that_leaves_gives_up_its_place_only() -> None:
    limiter = FairLimiter(1)
    running = limiter.join("a")
    first, second = limiter.join("a"), limiter.join("b")
    first.leave()
    first.leave()
    assert limiter.waiting == 1
    running.leave()
    assert second.granted
    assert not first.granted


async def test_a_cancelled_wait_does_not_lose_the_place_that_was_just_given() -> None:
    limiter = FairLimiter(1)
    running = limiter.join("a")
    waiting = limiter.join("b")
    task = asyncio.create_task(waiting.wait(10))
    await asyncio.sleep(0)
    running.leave()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    waiting.leave()
    assert limiter.join("c").granted


async def test_the_line_has_an_end() -> None:
    limiter = FairLimiter(1, max_waiting=2)
    limiter.join("a")
    limiter.join("a")
    limiter.join("b")
    with pytest.raises(ModelOverloaded):
        limiter.join("c")


@settings(deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 3), st.integers(0, 9)), max_size=60))
def test_never_more_than_the_limit_and_never_idle_while_somebody_waits(moves: list[tuple[str, int, int]]) -> None:
    async def run() -> None:
        limiter = FairLimiter(2)
        tickets: list[Ticket] = []
        for move, user, pick in moves:
            if move == "join":
                tickets.append(limiter.join(str(user)))
            elif tickets:
                tickets.pop(pick % len(tickets)).leave()
            running = [ticket for ticket in tickets if ticket.granted]
            waiting = [ticket for ticket in tickets if not ticket.granted]
            assert limiter.running == len(running) <= 2
            assert limiter.waiting == len(waiting)
            assert not waiting or len(running) == 2
            assert sorted(ticket.position() for ticket in waiting) == list(range(1, len(waiting) + 1))

    asyncio.run(run())
