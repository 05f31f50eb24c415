"""The decoders against the WHATWG's rules, written down a second time and as slowly as they read there."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchatbot.llm.decoder import BOM, MAX_LINE, NdjsonDecoder, SseDecoder, decode_utf8


def reference(body: bytes) -> tuple[list[tuple[str, str]], str, int | None]:
    """Events, last event id and retry of a whole body, by §9.2.6 of the HTML standard, word for word."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)[:-1]
    events: list[tuple[str, str]] = []
    data = event = identifier = last = ""
    retry: int | None = None
    for line in lines:
        if not line:
            last = identifier
            if data:
                events.append((event, data.removesuffix("\n")))
            data = event = ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            identifier = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return events, last, retry


def decoded(*chunks: bytes) -> tuple[list[tuple[str, str]], str, int | None]:
    decoder = SseDecoder()
    events = [(name, decode_utf8(data)) for chunk in chunks for name, data in decoder.feed(chunk)]
    assert decoder.finish() == []
    assert decoder.failure is None
    return events, decoder.last_event_id, decoder.retry


# Pieces out of which trouble is made: every line end, every field, marks, broken and exotic UTF-8.
LINE_ENDS = [b"\n", b"\r", b"\r\n", b"\n\n"]
FIELDS = [b"data: ", b"data:", b"data", b"data : x", b"event: ", b"event", b"id: 7", b"id", b"id: \x00", b"Data: x"]
FIELDS += [b"retry: 150", b"retry: 1x", b": comment", b":", b"data: a\ndata: b\n\n", b"data: one\n\n"]
TEXTS = [b" ", b"x", b'{"a":1}', b"\x00", b"\x0b\x0c\x1c", "\u2028".encode(), "\u0085".encode(), "é😀".encode()]
BROKEN = [BOM, b"\xef", b"\xbb\xbf", b"\xff", b"\xe4\xb8", b"\xf0\x9f"]
PIECES = st.sampled_from(LINE_ENDS + FIELDS + TEXTS + BROKEN)


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(PIECES, max_size=24), data=st.data())
def test_any_bytes_in_any_pieces_decode_as_the_standard_says(pieces: list[bytes], data: st.DataObject) -> None:
    body = b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=8)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert decoded(*chunks) == reference(body)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=60))
def test_random_bytes_one_at_a_time_decode_as_the_standard_says(body: bytes) -> None:
    assert decoded(*(body[place : place + 1] for place in range(len(body)))) == reference(body)


VECTORS: list[tuple[str, bytes, list[tuple[str, str]]]] = [
    ("plain", b"data: a\n\n", [("", "a")]),
    ("no space", b"data:a\n\n", [("", "a")]),
    ("only one space goes", b"data:  a\n\n", [("", " a")]),
    ("field without colon", b"data\n\n", [("", "")]),
    ("several data lines", b"data: a\ndata:\ndata: b\n\n", [("", "a\n\nb")]),
    ("event name", b"event: x\ndata: a\n\n", [("x", "a")]),
    ("event name is forgotten", b"event: x\n\ndata: a\n\n", [("", "a")]),
    ("no data, no event", b"id: 1\nevent: x\n\n", []),
    ("comments", b": hb\n:\ndata: a\n: b\n\n", [("", "a")]),
    ("carriage returns", b"data: a\r\rdata: b\r\r", [("", "a"), ("", "b")]),
    ("mixed line ends", b"data: a\r\n\ndata: b\n\r\n", [("", "a"), ("", "b")]),
    ("byte order mark", BOM + b"data: a\n\n", [("", "a")]),
    ("mark in the middle", b"data: a\n\n" + BOM + b"data: b\n\n", [("", "a")]),
    (
        "line separators are text",
        "data: a\u2028b\u2029c\u0085d\x0be\n\n".encode(),
        [("", "a\u2028b\u2029c\u0085d\x0be")],
    ),
    ("broken UTF-8", b"data: \xff\xe4\xb8\n\n", [("", "\ufffd\ufffd")]),
    ("no final blank line", b"data: a\n\ndata: b\n", [("", "a")]),
    ("no final line end", b"data: a\n\ndata: b", [("", "a")]),
    ("unknown fields", b"foo: bar\ndata: a\n\n", [("", "a")]),
    ("names have a case", b"DATA: x\ndata: a\n\n", [("", "a")]),
]


@pytest.mark.parametrize(("body", "events"), [vector[1:] for vector in VECTORS], ids=[vector[0] for vector in VECTORS])
def test_vectors(body: bytes, events: list[tuple[str, str]]) -> None:
    assert decoded(body)[0] == events
    assert decoded(*(body[place : place + 1] for place in range(len(body))))[0] == events


def test_an_event_is_given_as_soon_as_its_last_byte_is_here_even_a_carriage_return() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\r") == [("", b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [("", b"b")]


def test_an_id_with_nul_is_ignored_and_the_id_counts_from_its_event_on() -> None:
    decoder = SseDecoder()
    decoder.feed(b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\nid: 3\n")
    assert decoder.last_event_id == "1"
    decoder.feed(b"\n")
    assert decoder.last_event_id == "3"


@pytest.mark.parametrize("size", [1, 1000, MAX_LINE * 12], ids=["bytes", "pieces", "one chunk"])
def test_a_line_beyond_the_limit_fails_by_name_after_the_events_before_it(size: int) -> None:
    limit = MAX_LINE if size > 1 else 2000
    body = b"data: good\n\ndata: " + b"x" * (limit + 5000) + b"\n\ndata: never\n\n"
    decoder = SseDecoder(max_line=limit)
    events = [event for start in range(0, len(body), size) for event in decoder.feed(body[start : start + size])]
    assert events == [("", b"good")]
    assert decoder.failure is not None
    assert decoder.failure.code == "model_protocol_error"
    assert str(limit) in decoder.failure.detail


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_limit_strikes_at_the_same_line_length_however_the_bytes_are_cut(size: int) -> None:
    for length, fails in ((100, False), (101, True)):
        line = b"data: " + b"x" * (length - 6) + b"\n\n"
        decoder = SseDecoder(max_line=100)
        for start in range(0, len(line), size):
            decoder.feed(line[start : start + size])
        assert (decoder.failure is not None) == fails
        lines = NdjsonDecoder(max_line=100)
        for start in range(0, length + 1, size):
            lines.feed((b"x" * length + b"\n")[start : start + size])
        assert (lines.failure is not None) == fails


def test_an_event_of_many_lines_is_bounded_too() -> None:
    decoder = SseDecoder(max_line=1000, max_event=10_000)
    for _ in range(20):
        decoder.feed(b"data: " + b"x" * 900 + b"\n")
    assert decoder.failure is not None
    assert decoder.feed(b"\n\ndata: a\n\n") == []


def test_a_huge_line_in_small_pieces_costs_linear_time() -> None:
    decoder = SseDecoder()
    piece = b"x" * 64
    started = time.process_time()
    for _ in range(MAX_LINE // 64 - 1):
        decoder.feed(piece)
    # Copying the line for each piece would take 8 GB of memory traffic.
    assert time.process_time() - started < 1.0
    assert decoder.failure is None


def lines_of(*chunks: bytes) -> list[bytes]:
    decoder = NdjsonDecoder()
    lines = [line for chunk in chunks for line in decoder.feed(chunk)]
    return lines + decoder.finish()


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.sampled_from([b'{"a":1}', '{"é":"\u2028"}'.encode(), b"", b" ", b"[]"]), max_size=8),
    ends=st.sampled_from([b"\n", b"\r\n"]),
    data=st.data(),
)
def test_lines_do_not_depend_on_the_pieces(documents: list[bytes], ends: bytes, data: st.DataObject) -> None:
    body = ends.join(documents)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=6)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [line.strip() for line in lines_of(*chunks)] == [document for document in documents if document.strip()]


def test_a_document_without_a_line_end_counts_at_the_end_of_the_body() -> None:
    assert lines_of(BOM + b'{"a":1}\n{"b"', b":2}") == [b'{"a":1}', b'{"b":2}']
