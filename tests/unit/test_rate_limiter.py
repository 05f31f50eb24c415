"""The token bucket of one process, and what is counted as one address."""

from __future__ import annotations

import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.errors import RateLimited
from llmchatbot.services.rate_limits import RateLimiter, network_of


def test_a_burst_then_a_steady_rate() -> None:
    clock = ManualClock()
    limiter = RateLimiter(clock)
    for _ in range(60):
        limiter.check("messages:ada", 60, 60)
    with pytest.raises(RateLimited) as refused:
        limiter.check("messages:ada", 60, 60)
    assert refused.value.headers == {
        "Retry-After": "1",
        "RateLimit-Policy": '"messages";q=60;w=60',
        "RateLimit": '"messages";r=0;t=1',
    }
    clock.advance(2)
    limiter.check("messages:ada", 60, 60)
    limiter.check("messages:ada", 60, 60)
    with pytest.raises(RateLimited):
        limiter.check("messages:ada", 60, 60)


def test_people_do_not_share_a_bucket() -> None:
    limiter = RateLimiter(ManualClock())
    limiter.check("messages:ada", 1, 60)
    limiter.check("messages:bob", 1, 60)
    with pytest.raises(RateLimited):
        limiter.check("messages:ada", 1, 60)


def test_headers_tell_what_is_left() -> None:
    limiter = RateLimiter(ManualClock())
    assert limiter.check("messages:ada", 10, 60) == {
        "RateLimit-Policy": '"messages";q=10;w=60',
        "RateLimit": '"messages";r=9;t=6',
    }


def test_memory_is_bounded() -> None:
    limiter = RateLimiter(ManualClock(), most_keys=100)
    for number in range(1000):
        limiter.check(f"messages:{number}", 5, 60)
    assert len(limiter._buckets) == 100


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_one_subscriber_is_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
