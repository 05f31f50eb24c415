"""What a model says of one answer, up to its limit."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest

from llmchatbot.clock import SystemClock
from llmchatbot.errors import AnswerTooLong
from llmchatbot.ids import new_id
from llmchatbot.llm.events import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from llmchatbot.services.jobs import Job
from llmchatbot.services.sinks import JobSink
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.tails import Tail
from llmchatbot.streaming.writer import Writer

LIMIT = 100


def sink_of(draft: Draft) -> tuple[JobSink, Job]:
    job = cast("Job", SimpleNamespace(draft=draft, usage=None, finish_reason=None))
    writer = Writer(cast("Store", None), SystemClock(), node_id=new_id, round_seconds=1)
    return JobSink(job, writer, limit_bytes=LIMIT), job


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
    "last",
    [TextDelta("c" * 31), ReasoningDelta("c" * 31), ToolCallDelta(0, "", "", "c" * 31)],
    ids=lambda e: str(type(e)),
)
def test_text_thoughts_and_tool_calls_have_one_limit_together(last: Event) -> None:
    draft = draft_with("a" * 30)
    sink, _ = sink_of(draft)
    sink.events([ReasoningDelta("b" * 30), ToolCallDelta(0, "1", "look", "d" * 10)])
    with pytest.raises(AnswerTooLong):
        sink.events([last])
    batch = draft.take()
    assert batch is not None
    newest = json.loads(batch.payloads[-1])
    assert (newest.get("content") or newest["arguments"]) == "c" * 30
