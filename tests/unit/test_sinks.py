"""What a model says of one answer, up to its limit."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest

from llmchatbot.clock import SystemClock
from llmchatbot.errors import AnswerTooLong
from llmchatbot.ids import new_id
from llmchatbot.llm.events import Event, Finished, Notice, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from llmchatbot.services.jobs import Job
from llmchatbot.services.sinks import JobSink
from llmchatbot.streaming import payloads
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.tails import Tail
from llmchatbot.streaming.writer import Writer

LIMIT = 100


def sink_of(draft: Draft, *, limit: int = LIMIT) -> tuple[JobSink, Job]:
    job = cast("Job", SimpleNamespace(draft=draft, usage=None, finish_reason=None))
    writer = Writer(cast("Store", None), SystemClock(), node_id=new_id, round_seconds=1)
    return JobSink(job, writer, limit_bytes=limit), job


def call(arguments: str) -> ToolCallDelta:
    return ToolCallDelta(0, "1", "look", arguments)


def size_of(event: ToolCallDelta) -> int:
    return len(payloads.tool_call(event.index, event.id, event.name, event.arguments))


def draft_with(text: str = "") -> Draft:
    return Draft(Tail(new_id()), epoch=1, next_seq=1, text=text)


@pytest.mark.parametrize(
    ("before", "piece", "kept"),
    [
        ("", "a" * 1_048_576, "a" * 100),
        ("a" * 98, "bcd", "a" * 98 + "bc"),
        ("a" * 98, "\u00e9\u00e9", "a" * 98 + "\u00e9"),
        ("a" * 98, "\u20ac", "a" * 98),
        ("a" * 97, "\U0001f4a1b", "a" * 97),
        ("a" * 100, "b", "a" * 100),
        ("a" * 120, "b", "a" * 120),
    ],
    ids=["mebibyte", "ascii", "two bytes", "three bytes", "four bytes", "full", "over full"],
)
@pytest.mark.parametrize("batched", [False, True])
def test_piece_that_goes_beyond_the_limit_of_an_answer_is_cut_there_between_two_characters(
    before: str, piece: str, kept: str, batched: bool
) -> None:
    """The limit was looked at behind the piece, and one piece may be a MiB: the answer was that much longer."""
    draft = draft_with(before)
    sink, _ = sink_of(draft)
    with pytest.raises(AnswerTooLong, match="limit of 100 bytes"):
        sink.events([TextDelta(piece)]) if batched else sink.text(piece)
    assert draft.text == kept


def test_answer_of_exactly_its_limit_is_whole() -> None:
    draft = draft_with("\u00e9" * 25)
    sink, _ = sink_of(draft)
    sink.text("\U0001f4a1" * 10)
    sink.text("0123456789")
    assert draft.bytes == LIMIT


def test_nothing_behind_a_cut_is_taken_but_what_the_call_has_cost() -> None:
    draft = draft_with("a" * 98)
    sink, job = sink_of(draft)
    usage = Usage(1, 2)
    with pytest.raises(AnswerTooLong):
        sink.events([TextDelta("\u20ac"), TextDelta("b"), ToolCallDelta(0, "c", "look", "{}"), usage, Finished("stop")])
    assert draft.text == "a" * 98
    assert draft.take() is None
    assert job.usage == usage


@pytest.mark.parametrize(
    ("last", "fits"), [(TextDelta("c" * 31), True), (ReasoningDelta("c" * 31), True), (call("c" * 31), False)]
)
def test_text_thoughts_and_tool_calls_have_one_limit_together(last: Event, fits: bool) -> None:
    draft = draft_with("a" * 30)
    first = call("d" * 10)
    sink, _ = sink_of(draft, limit=30 + 30 + size_of(first) + 30)
    sink.events([ReasoningDelta("b" * 30), first])
    with pytest.raises(AnswerTooLong):
        sink.events([last])
    batch = draft.take()
    assert batch is not None
    assert json.loads(batch.payloads[1])["arguments"] == "d" * 10
    assert [json.loads(payload)["content"] for payload in batch.payloads[2:]] == (["c" * 30] if fits else [])


@pytest.mark.parametrize(
    "calls",
    [
        [ToolCallDelta(0, "i" * 900, "", "")],
        [ToolCallDelta(0, "", "n" * 900, "")],
        [ToolCallDelta(n, "", "", "") for n in range(1000)],
        [call("\u00e9" * 100)],
    ],
    ids=["id", "name", "empty ones", "arguments that are escaped"],
)
def test_all_that_is_kept_of_a_tool_call_counts(calls: list[Event]) -> None:
    """Only its arguments did: a hundred MB of ids were no answer that is too long."""
    draft = draft_with()
    sink, _ = sink_of(draft, limit=10_000)
    with pytest.raises(AnswerTooLong):
        sink.events(calls * 20)
    batch = draft.take()
    assert batch is not None
    assert 9_000 < sum(map(len, batch.payloads)) <= 10_000


def test_a_tool_call_of_exactly_the_room_that_is_left_is_whole() -> None:
    draft = draft_with("a" * 30)
    whole = call("{}")
    sink, _ = sink_of(draft, limit=30 + size_of(whole))
    sink.events([whole])
    with pytest.raises(AnswerTooLong):
        sink.text("b")


def test_notices_take_their_part_of_the_limit() -> None:
    draft = draft_with()
    sink, _ = sink_of(draft)
    sink.events([Notice("retry", "a" * 50)])
    with pytest.raises(AnswerTooLong):
        sink.text("b" * 60)
    assert len(draft.text) == LIMIT - len(payloads.notice("retry", "a" * 50))


def test_tool_calls_of_a_node_that_died_count_for_whoever_goes_on() -> None:
    log = ['{"type":"start"}', payloads.tool_call(0, "1", "look", "{}")]
    tail = Tail(new_id())
    tail.extend(0, log)
    sink, _ = sink_of(Draft.of_log(tail, log, epoch=2), limit=len(log[1]) + 5)
    sink.text("a" * 5)
    with pytest.raises(AnswerTooLong):
        sink.text("b")
