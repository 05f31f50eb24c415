"""One contract, every protocol: what a provider may send, and what must come of it."""

from __future__ import annotations

import msgspec
import pytest
from model_recordings import CANARY, ENDPOINT, KEY, PROMPT, Recording, ReplayTransport, ask, replay

from llmchatbot.llm.events import Finished, TextDelta, Usage
from llmchatbot.llm.port import Parameters, Prompt, PromptMessage
from llmchatbot.llm.wire import WireModel


async def test_a_good_answer_is_told_in_our_vocabulary(recording: Recording) -> None:
    answer = await replay(recording, recording.good)
    assert answer.error is None
    assert answer.text == recording.text
    assert answer.reasoning == recording.reasoning
    assert tuple(call for call in answer.tool_calls if call.name or call.arguments) == recording.tool_calls
    assert answer.events[-1] == Finished(recording.reason)
    assert [event for event in answer.events if isinstance(event, Usage)] == (
        [recording.usage] if recording.usage else []
    )


async def test_the_events_do_not_depend_on_how_the_bytes_are_cut(recording: Recording) -> None:
    good = recording.good
    expected = (await replay(recording, good)).without_cuts()
    for cut in range(1, len(good)):
        assert (await replay(recording, good[:cut], good[cut:])).without_cuts() == expected, cut
    for size in (1, 2, 3, 7):
        pieces = [good[start : start + size] for start in range(0, len(good), size)]
        assert (await replay(recording, *pieces)).without_cuts() == expected, size


@pytest.mark.parametrize("broken", [False, True], ids=["end of file", "connection cut"])
async def test_an_answer_cut_at_any_byte_is_never_complete_without_its_end_record(
    recording: Recording, broken: bool
) -> None:
    for cut in range(len(recording.good)):
        answer = await replay(recording, recording.good[:cut], broken=broken)
        assert recording.text.startswith(answer.text), cut
        whole = cut >= recording.whole_at
        # A cut connection may not close the last line; only a proper end of the body does.
        if broken and recording.json_lines:
            whole = cut >= len(recording.good)
        assert answer.finished == whole, cut
        if not whole:
            assert answer.error is not None, cut
            assert answer.error.code == "model_interrupted", cut
        else:
            assert answer.text == recording.text


async def test_an_end_without_end_record_is_interrupted_and_the_text_is_kept(recording: Recording) -> None:
    answer = await replay(recording, recording.tokens(["a", "b"]))
    assert answer.text == "ab"
    assert answer.error is not None
    assert answer.error.code == "model_interrupted"
    assert answer.error.retryable


async def test_an_error_in_mid_stream_keeps_the_text_and_hides_the_providers_words(recording: Recording) -> None:
    answer = await replay(recording, recording.tokens(["a", "b"]) + recording.error + recording.finish)
    assert answer.text == "ab"
    assert not answer.finished
    assert answer.error is not None
    assert answer.error.code == "model_unavailable"
    assert CANARY not in str(answer.error)
    assert CANARY not in str(answer.error.extra)


async def test_garbage_is_a_protocol_error_after_the_text_before_it(recording: Recording) -> None:
    junk = b'{"type": nonsense \x00\xff\n' if recording.json_lines else b'data: {"choices": nonsense \x00\xff\n\n'
    answer = await replay(recording, recording.tokens(["a"]) + junk + recording.finish)
    assert answer.text == "a"
    assert not answer.finished
    assert answer.error is not None
    assert answer.error.code == "model_protocol_error"


async def test_json_of_another_shape_is_a_protocol_error(recording: Recording) -> None:
    junk = b'["a list"]\n' if recording.json_lines else b'data: ["a list"]\n\n'
    answer = await replay(recording, recording.tokens(["a"]) + junk + recording.finish)
    assert (answer.text, answer.finished) == ("a", False)
    assert answer.error is not None
    assert answer.error.code == "model_protocol_error"


async def test_a_line_of_ten_megabytes_is_refused_without_being_kept(recording: Recording) -> None:
    chunk = b"x" * 65536
    start = recording.tokens(["a"]) + (b'{"type":"' if recording.json_lines else b'data: {"')
    answer = await replay(recording, start, *[chunk] * 160)
    assert answer.text == "a"
    assert answer.error is not None
    assert answer.error.code == "model_protocol_error"
    assert "1048576" in answer.error.detail


async def test_fault_6_a_line_over_64_kib_is_read(recording: Recording) -> None:
    long = "é" * 100_000
    answer = await replay(recording, recording.tokens([long]), recording.finish)
    assert answer.error is None
    assert answer.text == long


async def test_fault_3_no_answer_is_complete_without_a_record_that_says_so(recording: Recording) -> None:
    for body in (b"", recording.tokens([]), recording.tokens(["only text"])):
        assert not (await replay(recording, body)).finished


async def test_nul_and_lone_surrogates_become_replacement_characters(recording: Recording) -> None:
    answer = await replay(recording, recording.tokens(["a\\u0000b", "c\\ud83dd", "\\udc00e"]), recording.finish)
    assert answer.text == "a\ufffdbc\ufffdd\ufffde"
    assert answer.finished


async def test_a_surrogate_pair_cut_between_two_records_is_joined(recording: Recording) -> None:
    answer = await replay(recording, recording.tokens(["a\\ud83d", "\\ude00b", "c\\ud83d"]), recording.finish)
    assert answer.text == "a😀bc\ufffd"
    answer.text.encode()


async def test_broken_utf8_becomes_replacement_characters(recording: Recording) -> None:
    body = recording.tokens(["a@b"]).replace(b"@", b"\xe4\xb8")
    answer = await replay(recording, body, recording.finish)
    assert answer.text == "a\ufffdb"


async def test_a_web_page_with_status_200_is_a_protocol_error(recording: Recording) -> None:
    answer = await replay(recording, f"\n<!doctype html><h1>{CANARY}</h1>".encode())
    assert answer.error is not None
    assert answer.error.code == "model_protocol_error"
    assert CANARY not in str(answer.error)


async def test_an_error_document_with_status_200_is_an_error(recording: Recording) -> None:
    body = msgspec.json.encode({"error": {"message": f"You exceeded your current quota {CANARY}"}})
    answer = await replay(recording, body)
    assert not answer.finished
    assert answer.error is not None
    assert answer.error.code == "model_overloaded"
    assert CANARY not in str(answer.error)


async def test_the_key_stands_in_no_url_no_body_and_no_repr(recording: Recording) -> None:
    transport = ReplayTransport([recording.good])
    await ask(recording.build(transport, ENDPOINT))
    request = transport.requests[0]
    assert KEY in str(request.headers.values())
    assert KEY not in request.url
    assert KEY.encode() not in request.body
    assert KEY not in repr(ENDPOINT)


async def test_fault_4_each_message_reaches_the_model_once_and_in_order(recording: Recording) -> None:
    transport = ReplayTransport([recording.good])
    await ask(recording.build(transport, ENDPOINT))
    body = transport.requests[0].body.decode()
    for message in PROMPT.messages:
        assert body.count(message.content) == 1, message.content
    if not recording.json_lines:
        places = [body.index(text) for text in ("One?", "Two.", "Three?")]
        assert places == sorted(places)


async def test_cancelling_closes_the_stream(recording: Recording) -> None:
    transport = ReplayTransport([recording.tokens(["a"]), recording.tokens(["b"]), recording.finish])
    batches = recording.build(transport, ENDPOINT).stream(PROMPT)
    first = await anext(batches)
    assert TextDelta("a") in first
    await batches.aclose()
    assert transport.streams[0].closed


def body_of(model: WireModel[bytes], prompt: Prompt) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.json.decode(model.request_for(prompt).body)
    return decoded


async def test_parameters_that_were_not_set_are_not_sent(recording: Recording) -> None:
    prompt = Prompt(model="m", messages=(PromptMessage(role="user", content="hi"),), parameters=Parameters())
    body = msgspec.json.encode(body_of(recording.build(ReplayTransport([]), ENDPOINT), prompt)).decode()
    for name in ("temperature", "top_p", "topP", "seed", "stop_sequences", "stopSequences", '"stop"', "effort", "null"):
        assert name not in body


PROTOCOL_BODIES: dict[str, dict[str, object]] = {
    "openai": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 3,
        "stop": ["x"],
        "reasoning_effort": "low",
    },
    "openai-responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
        ],
        "stream": True,
        "store": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 7,
        "reasoning": {"effort": "low"},
    },
    "anthropic": {
        "model": "m",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
        ],
        "max_tokens": 7,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["x"],
        "output_config": {"effort": "low"},
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "One?"}]},
            {"role": "model", "parts": [{"text": "Two."}]},
            {"role": "user", "parts": [{"text": "Three?"}]},
        ],
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "maxOutputTokens": 7,
            "seed": 3,
            "stopSequences": ["x"],
            "thinkingConfig": {"thinkingLevel": "low"},
        },
    },
    "ndjson": {
        "prompt": "Three?",
        "history": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
        ],
        "model": "m",
    },
}


async def test_the_request_is_the_protocols_own(recording: Recording) -> None:
    body = body_of(recording.build(ReplayTransport([]), ENDPOINT), PROMPT)
    assert body == PROTOCOL_BODIES[recording.name]
