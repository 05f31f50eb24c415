"""The short lane for pieces of one shape gives what parsing them gives, whatever comes in between."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchatbot.errors import ModelError, ModelInterrupted
from llmchatbot.llm.body import HttpStream
from llmchatbot.llm.endpoint import Endpoint, TimeLimits
from llmchatbot.llm.events import Event, ReasoningDelta, TextDelta
from llmchatbot.llm.openai_chat import ChatParser, OpenAiChatModel
from llmchatbot.llm.port import Prompt, PromptMessage
from llmchatbot.llm.shape import PieceShape

ENDPOINT = Endpoint(url="http://model.test/v1")
PROMPT = Prompt(model="m", messages=(PromptMessage(role="user", content="hi"),))
FIRST = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'


def piece(literal: bytes = b'" word"', *, created: int = 1, filler: bytes | None = None, more: bytes = b"") -> bytes:
    """A chunk as OpenAI writes it; `literal` with its quotes."""
    end = b"" if filler is None else b',"obfuscation":"%b"' % filler
    return (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":%d,"model":"m","choices":[{"index":0,'
        b'"delta":{"content":%b%b},"finish_reason":null}],"usage":null%b}\n\n' % (created, literal, more, end)
    )


def parse(data: bytes) -> str | None:
    """The long way, for a piece that is one record."""
    return ChatParser(ENDPOINT).plain(data[6:-2])


def taught(*pieces: bytes) -> PieceShape:
    shape = PieceShape()
    for one in pieces:
        shape.learn(one, parse(one) or "", parse)
    return shape


def test_nothing_is_known_at_first() -> None:
    assert PieceShape().text_of(piece()) is None
    for other in (b"", b"\n", b"event: x\n", b'"', b'a"', b'a\n"'):
        assert PieceShape().text_of(other) is None, other


@pytest.mark.parametrize("text", [" word", "é 😀", "a", ", ", "  ", "]}"])
def test_another_text_in_the_same_shape_is_known(text: str) -> None:
    shape = taught(piece())
    assert shape.text_of(piece(f'"{text}"'.encode())) == text


@pytest.mark.parametrize(
    "other",
    [
        piece(b'"a\\nb"'),
        piece(rb'"\ud83d"'),
        piece(b'"a\\"b"'),
        piece(b'"\xff"'),
        piece(b'"a\tb"'),
        piece(b'"\x00"'),
        piece(b"null"),
        piece(created=2),
        piece(more=b',"reasoning":"because"'),
        piece(more=b',"content":"twice"'),
        piece() + piece(),
        piece()[:-1],
        piece()[:40],
        piece().removeprefix(b"data: "),
        piece(b'"a"}}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"b"'),
        b"",
    ],
)
def test_all_else_is_left_to_the_parser(other: bytes) -> None:
    assert taught(piece()).text_of(other) is None


def test_a_filler_behind_the_text_may_change_from_piece_to_piece() -> None:
    shape = taught(piece(filler=b"K3fT9q"), piece(filler=b"x"))
    assert shape.text_of(piece(b'" more"', filler=b"AbCdEf0123")) == " more"
    for other in (piece(filler=b""), piece(filler=b'","content":"b'), piece(filler=b"a b"), piece()):
        assert shape.text_of(other) is None, other


def test_a_filler_that_begins_and_ends_alike_is_told_from_what_is_around_it() -> None:
    shape = taught(piece(filler=b"abXcd"), piece(filler=b"abYcd"))
    assert shape.text_of(piece(filler=b"Q")) == " word"


def test_what_is_said_beside_the_text_is_no_filler() -> None:
    """A member that changes and means something: the parser must see it each time."""
    reasons = [
        piece().replace(b'"finish_reason":null', b'"finish_reason":"%b"' % word) for word in (b"stop", b"length")
    ]
    thoughts = [piece(more=b',"reasoning":"%b"' % word) for word in (b"so", b"thus")]
    comments = [piece() + b": %d\n\n" % number for number in (1, 2)]
    for first, second in (reasons, thoughts, comments):
        # As if somebody had taken them for plain.
        shape = PieceShape()
        for one in (first, second):
            shape.learn(one, " word", parse)
        assert shape.text_of(first) is None
        assert shape.text_of(second) is None


def test_a_text_that_stands_elsewhere_too_is_not_confused_with_it() -> None:
    named = piece(b'"m"').replace(b'"usage"', b'"name":"m","usage"')
    shape = taught(named)
    assert shape.text_of(named.replace(b'"name":"m"', b'"name":"n"')) is None
    assert taught(named, piece(b'" on"')).text_of(piece(b'" and"')) == " and"


def test_a_vendor_with_something_new_in_every_piece_is_given_up() -> None:
    asked = 0

    def counting(data: bytes) -> str | None:
        nonlocal asked
        asked += 1
        return parse(data)

    shape = PieceShape()
    for number in range(1000):
        shape.learn(piece(created=number), " word", counting)
    assert asked < 100


def test_what_is_known_is_not_proved_again() -> None:
    shape = taught(piece(), piece(filler=b"a"), piece(filler=b"bc"))
    shape.learn(piece(b'" x"', filler=b"def"), " x", lambda data: pytest.fail("a proof of what is known"))


LITERALS = st.one_of(
    st.sampled_from([b'""', b'" a"', b'"a\\nb"', b'"\\u0000"', rb'"\ud83d"', rb'"\ude00"', b"null", b'"\xff"', b"7"]),
    st.text(max_size=6).map(msgspec.json.encode),
)
PIECES = st.one_of(
    st.builds(
        piece,
        LITERALS,
        created=st.integers(1, 2),
        filler=st.sampled_from([None, None, None, None, b"", b"a", b"ab", b"aXb", b"\\n"]),
        more=st.sampled_from([b"", b"", b"", b',"reasoning":"so"', b',"tool_calls":[{"index":0}]', b',"content":"b"']),
    ),
    st.sampled_from(
        [
            b": comment\n\n",
            b"data: {}\n\n",
            b"data: \n\n",
            b"\n",
            b"event: x\n",
            b"data: ",
            b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
            piece().replace(b"\n", b"\r\n"),
            piece() + piece(b'" b"'),
            piece()[:50],
            piece()[50:],
            piece()[:-1],
        ]
    ),
)
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Transport:
    """One answer whose pieces the test feeds."""

    def __init__(self) -> None:
        self.stream = HttpStream(TimeLimits(), asyncio.get_running_loop().time(), asyncio.get_running_loop())

    async def open(self, request: object) -> HttpStream:
        return self.stream


class Collecting:
    """A sink that keeps text and thoughts, each in its order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    @property
    def size(self) -> int:
        return 0

    def text(self, piece: str) -> None:
        self.add("text", piece)

    def add(self, kind: str, piece: str) -> None:
        if self.said and self.said[-1][0] == kind:
            piece = self.said.pop()[1] + piece
        self.said.append((kind, piece))

    def events(self, batch: list[Event]) -> None:
        for event in batch:
            if isinstance(event, TextDelta):
                self.add("text", event.text)
            elif isinstance(event, ReasoningDelta):
                self.add("reasoning", event.text)
            else:
                self.add(type(event).__name__, repr(event))


async def heard(
    pieces: list[bytes], *, relayed: bool, then: ModelError | None = None
) -> tuple[list[tuple[str, str]], str]:
    """What is made of these pieces, and the code of the error that it ends with.

    `then` is what befalls the connection right behind the last piece, before anybody was woken by it.
    """
    transport = Transport()
    model = OpenAiChatModel(cast("Any", transport), ENDPOINT)
    sink = Collecting()

    async def read() -> str:
        try:
            async for batch in model.stream(PROMPT, sink if relayed else None):
                sink.events(batch)
        except ModelError as error:
            return error.code
        return ""

    reading = asyncio.create_task(read())
    for one in pieces:
        # One turn wakes the reader, the next lets it wait again: each piece is taken by itself.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        transport.stream.feed(one)
    if then is not None:
        transport.stream.fail(then)
    transport.stream.end()
    code = await reading
    return sink.said, code


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(PIECES, max_size=14))
def test_any_pieces_relayed_say_what_they_say_one_by_one(pieces: list[bytes]) -> None:
    async def both() -> None:
        whole = [FIRST, piece(), *pieces, END]
        assert await heard(whole, relayed=True) == await heard(whole, relayed=False)

    asyncio.run(both())


async def test_half_a_character_waits_for_its_other_half_although_the_next_piece_is_plain() -> None:
    pieces = [FIRST, piece(), piece(rb'"\ud83d"'), piece(b'" a"'), piece(), END]
    said, _ = await heard(pieces, relayed=True)
    assert said[0] == ("text", " word\ufffd a word")


async def test_white_space_that_repeats_the_end_of_a_prefix_is_dropped_piece_by_piece() -> None:
    """One space came alone, so the next piece is looked at again, however plain it is."""
    parser = ChatParser(ENDPOINT, prefix="so  ")
    assert parser.plain(piece(b'" "')[6:-2]) == ""
    assert not parser.settled
    assert parser.plain(piece(b'" b"')[6:-2]) == "b"
    assert parser.settled


@pytest.mark.parametrize("relayed", [True, False])
async def test_a_connection_that_breaks_behind_the_last_piece_takes_nothing_of_it_away(relayed: bool) -> None:
    last = piece(b'" the last"') + END
    said, code = await heard([FIRST, piece(), last], relayed=relayed, then=ModelInterrupted())
    assert said[0] == ("text", " word the last")
    assert code == ""
