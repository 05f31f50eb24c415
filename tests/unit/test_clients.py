"""Where a request comes from: headers of strangers are not believed."""

from __future__ import annotations

from typing import Any, cast

import pytest
from litestar.types import Scope

from llmchatbot.errors import StartupError
from llmchatbot.handlers.clients import caller_of, parse_networks

PROXIES = parse_networks("10.0.0.0/8, 192.0.2.7,2001:db8::/32")


def scope(peer: str | None, *headers: tuple[str, str], scheme: str = "http") -> Scope:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    made: dict[str, Any] = {"client": (peer, 1234) if peer is not None else None, "headers": raw, "scheme": scheme}
    return cast("Scope", made)


def address(peer: str | None, *forwarded: str) -> str:
    return caller_of(scope(peer, *(("X-Forwarded-For", line) for line in forwarded)), PROXIES).client.address


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.1.2.3", ["1.1.1.1"], "1.1.1.1"),
        ("10.1.2.3", ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        ("10.1.2.3", ["6.6.6.6, 1.1.1.1, 192.0.2.7"], "1.1.1.1"),
        ("10.1.2.3", ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        ("10.1.2.3", ["6.6.6.6, nonsense"], "10.1.2.3"),
        ("10.1.2.3", ["6.6.6.6, nonsense, 192.0.2.7"], "192.0.2.7"),
        ("10.1.2.3", ["10.9.9.9"], "10.9.9.9"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["1.1.1.1:4711"], "1.1.1.1"),
        ("2001:db8::1", ["[2001:db9::5]:443"], "2001:db9::5"),
        ("::ffff:10.1.2.3", ["1.1.1.1"], "1.1.1.1"),
        (None, ["1.1.1.1"], ""),
        ("", ["1.1.1.1"], ""),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str | None, forwarded: list[str], expected: str) -> None:
    assert address(peer, *forwarded) == expected


def test_https_is_the_scheme_or_what_a_trusted_proxy_says() -> None:
    proto = ("X-Forwarded-Proto", "https")
    assert caller_of(scope("203.0.113.9", scheme="https"), ()).secure
    assert not caller_of(scope("203.0.113.9", proto), PROXIES).secure
    assert caller_of(scope("10.1.2.3", proto), PROXIES).secure
    assert not caller_of(scope("10.1.2.3", ("X-Forwarded-Proto", "https,http")), PROXIES).secure


def test_a_user_agent_is_made_printable() -> None:
    caller = caller_of(scope("203.0.113.9", ("User-Agent", "Moz\x01illa\x00\xff")), ())
    assert caller.client.user_agent == "Mozillaÿ"


def test_a_wrong_proxy_list_is_named_at_the_start() -> None:
    with pytest.raises(StartupError, match=r"'proxy\.example'"):
        parse_networks("10.0.0.1, proxy.example")
