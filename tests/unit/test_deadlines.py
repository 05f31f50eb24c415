"""Which clock runs for a request: the one of its body, or the one of its route."""

from __future__ import annotations

from typing import Any

import pytest

from llmchatbot.errors import BodyTimeout, RequestTimeout
from llmchatbot.handlers.deadlines import Deadline


async def nothing() -> Any:
    raise AssertionError("nobody asks for a body here")


@pytest.mark.parametrize(
    ("method", "headers", "error"),
    [
        ("GET", [], RequestTimeout),
        ("POST", [], RequestTimeout),
        ("POST", [(b"content-length", b"0")], RequestTimeout),
        ("DELETE", [(b"host", b"x")], RequestTimeout),
        ("POST", [(b"content-length", b"7")], BodyTimeout),
        ("PUT", [(b"transfer-encoding", b"chunked")], BodyTimeout),
    ],
)
async def test_a_request_without_a_body_is_not_waited_for_as_if_it_had_one(
    method: str, headers: list[tuple[bytes, bytes]], error: type[Exception]
) -> None:
    """A stop whose answer would not end was told 408: send the body again."""
    deadline = Deadline({"method": method, "headers": headers}, nothing, body_timeout=15, route_timeout=10)
    assert isinstance(deadline.error(), error)
