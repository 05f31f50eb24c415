"""Cursors: what was written is read back, and nothing else is read at all."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmchatbot.errors import MalformedCursor
from llmchatbot.handlers.paging import (
    CHATS,
    HITS,
    MESSAGES,
    decode_moment,
    decode_number,
    encode_moment,
    encode_number,
    next_link,
)

moments = st.datetimes(timezones=st.just(UTC))


@given(moments, st.uuids())
def test_a_moment_comes_back_to_the_microsecond(moment: datetime, identifier: UUID) -> None:
    cursor = encode_moment(CHATS, moment, identifier)
    assert len(cursor) <= 64
    assert decode_moment(CHATS, cursor) == (moment, identifier)
    with pytest.raises(MalformedCursor):
        decode_moment(HITS, cursor)


@given(st.integers(min_value=0, max_value=2**31 - 1))
def test_a_number_comes_back(number: int) -> None:
    assert decode_number(MESSAGES, encode_number(MESSAGES, number)) == number


@given(st.text(max_size=64) | st.text(alphabet="ABCwxyz0123456789-_=", max_size=64))
def test_any_other_text_is_refused_as_malformed(text: str) -> None:
    for decode, kind in ((decode_moment, CHATS), (decode_number, MESSAGES)):
        try:
            decode(kind, text)
        except MalformedCursor:
            continue
        # The few that are well formed have exactly one spelling.
        values = decode(kind, text)
        assert text == (encode_number(kind, values) if isinstance(values, int) else encode_moment(kind, *values))


@given(moments, st.uuids(), st.data())
def test_one_place_has_one_name(moment: datetime, identifier: UUID, data: st.DataObject) -> None:
    cursor = encode_moment(CHATS, moment, identifier)
    at = data.draw(st.integers(min_value=0, max_value=len(cursor) - 1))
    changed = cursor[:at] + data.draw(st.characters(max_codepoint=0x7F)) + cursor[at + 1 :]
    if changed != cursor:
        with contextlib.suppress(MalformedCursor):
            assert decode_moment(CHATS, changed) != (moment, identifier)
    for more in ("=", "\n", " ", "A"):
        with pytest.raises(MalformedCursor):
            decode_moment(CHATS, cursor + more)


def test_the_link_is_relative_and_escaped() -> None:
    assert next_link("/a", {"q": 'x>"; rel="y', "limit": 2}) == {
        "Link": '</a?q=x%3E%22%3B+rel%3D%22y&limit=2>; rel="next"'
    }
