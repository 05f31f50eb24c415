"""If-Match: what it accepts."""

from __future__ import annotations

import time

import pytest

from llmchatbot.handlers.etags import etag_of, versions_of


@pytest.mark.parametrize(
    ("header", "versions"),
    [
        (None, None),
        ("*", None),
        (" * ", None),
        ('"3"', [3]),
        ('"3", "5"', [3, 5]),
        ('"3","5"', [3, 5]),
        ('W/"3"', []),
        ('"x", "5"', [5]),
        ("3", []),
        ("", []),
        ('"99999999999999999999"', []),
        ('"٣"', []),
    ],
)
def test_if_match(header: str | None, versions: list[int] | None) -> None:
    assert versions_of(header) == versions


def test_an_etag_matches_itself() -> None:
    assert versions_of(etag_of(7)) == [7]


def test_a_long_header_takes_no_longer_than_its_length() -> None:
    """It was quadratic in the number of spaces: three seconds of the whole process for one header."""
    began = time.process_time()
    assert versions_of("a" + " " * 20_000 + "a") == []
    assert time.process_time() - began < 1
