"""Ends that are told in one protocol alone, and what must come of them."""

from __future__ import annotations

import json

import pytest
from model_recordings import RECORDINGS, replay

from llmchatbot.llm.events import MOST_TOKENS, Usage

CHAT, NDJSON = RECORDINGS["openai"], RECORDINGS["ndjson"]


def finish(reason: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()


@pytest.mark.parametrize("reason", ["error", "insufficient_system_resource", "abort"])
async def test_fault_3_a_finish_reason_that_means_broken_off_is_no_end(reason: str) -> None:
    """DeepSeek, vLLM, OpenRouter: the server gave up, and says so in the place where others say that they are done."""
    answer = await replay(CHAT, CHAT.tokens(["half an ans"]), finish(reason))
    assert answer.text == "half an ans"
    assert not answer.finished
    assert answer.error is not None
    assert answer.error.code == "model_unavailable"


async def test_a_finish_reason_of_tomorrow_is_an_end() -> None:
    answer = await replay(CHAT, CHAT.tokens(["whole"]), finish("because_i_can"))
    assert answer.finished


@pytest.mark.parametrize(
    ("tokens", "whole", "shown"),
    [
        ([], "all at once", "all at once"),
        (["in ", "pieces"], "in pieces", "in pieces"),
        (["in ", "pie"], "in pieces", "in pieces"),
        (["in ", "pieces"], "", "in pieces"),
        # Trimmed, or something else altogether: what was shown is shown, and nothing is said twice.
        ([" in ", "pieces"], "in pieces", " in pieces"),
        (["in ", "pieces"], "another text that is longer", "in pieces"),
    ],
)
async def test_the_last_line_of_ndjson_adds_what_its_tokens_did_not_bring(
    tokens: list[str], whole: str, shown: str
) -> None:
    end = json.dumps({"type": "complete", "content": whole, "tokens": 2}).encode() + b"\n"
    answer = await replay(NDJSON, NDJSON.tokens(tokens), end)
    assert answer.finished
    assert answer.text == shown


ABSURD = {
    "openai": {"choices": [], "usage": {"prompt_tokens": 2**32 - 1, "completion_tokens": -3}},
    "openai-responses": {
        "type": "response.completed",
        "response": {"usage": {"input_tokens": 2**31, "output_tokens": -3}},
    },
    "anthropic": {
        "type": "message_delta",
        "usage": {"input_tokens": 2**30, "cache_read_input_tokens": 2**30, "output_tokens": -3},
    },
    "gemini": {"usageMetadata": {"promptTokenCount": 2**63, "candidatesTokenCount": -5, "thoughtsTokenCount": 2}},
    "ndjson": {"type": "complete", "tokens": -3, "input_tokens": 10**30},
}


@pytest.mark.parametrize("name", list(RECORDINGS))
async def test_a_count_of_tokens_that_cannot_be_written_down_becomes_the_nearest_that_can(name: str) -> None:
    """One of 4294967295 did not fit its column: the end of that answer was never stored, and its chat stayed busy."""
    recording = RECORDINGS[name]
    told = json.dumps(ABSURD[name]).encode()
    record = told + b"\n" if recording.json_lines else b"data: %b\n\n" % told
    answer = await replay(recording, recording.tokens(["a"]), record, b"" if recording.json_lines else recording.finish)
    assert answer.error is None
    assert [event for event in answer.events if isinstance(event, Usage)] == [Usage(MOST_TOKENS, 0, estimated=True)]
