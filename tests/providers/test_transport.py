"""Faults over a real socket: every limit, every refusal, every way to leave; and where the key may go."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from model_recordings import CANARY, ENDPOINT, KEY, PROMPT, RawServer, Recording, ask

from llmchatbot.errors import ModelError, ModelMisconfigured, ModelTimeout, ModelUnavailable
from llmchatbot.llm.endpoint import Endpoint, TimeLimits
from llmchatbot.llm.events import Finished, TextDelta
from llmchatbot.llm.openai_chat import OpenAiChatModel
from llmchatbot.llm.transport import HttpRequest, HttpTransport

GOOD = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def endpoint(server: RawServer, **limits: float) -> Endpoint:
    # Only the limit under test is short: a busy machine must not fail the others.
    values = {"connect": 10.0, "first_byte": 20.0, "chunk": 20.0, "whole": 60.0, **limits}
    return msgspec.structs.replace(ENDPOINT, url=server.url, limits=TimeLimits(**values))


def model(server: RawServer, transport: HttpTransport, **limits: float) -> OpenAiChatModel:
    return OpenAiChatModel(transport, endpoint(server, **limits))


def established(server: RawServer) -> list[str]:
    """Our ends of connections to the server that the kernel still holds open."""
    port = f":{int(server.url.rsplit(':', 1)[1].split('/')[0]):04X}"
    lines = Path("/proc/self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return [line for line in lines if line.split()[2].endswith(port) and line.split()[3] == "01"]


async def test_every_protocol_over_a_real_socket(
    recording: Recording, server: RawServer, transport: HttpTransport
) -> None:
    middle = len(recording.good) // 2
    server.answer(recording.good[:middle], recording.good[middle:], media=recording.media)
    answer = await ask(recording.build(transport, endpoint(server)))
    assert answer.error is None
    assert answer.text == recording.text
    await asyncio.wait_for(server.all_closed.wait(), 10)


async def test_a_cut_connection_is_interrupted(
    recording: Recording, server: RawServer, transport: HttpTransport
) -> None:
    server.answer(recording.tokens(["a", "b"]), media=recording.media, then="cut")
    answer = await ask(recording.build(transport, endpoint(server)))
    assert answer.text == "ab"
    assert answer.error is not None
    assert answer.error.code == "model_interrupted"


async def test_silence_between_two_pieces_ends_by_the_chunk_limit(
    recording: Recording, server: RawServer, transport: HttpTransport
) -> None:
    server.answer(recording.tokens(["a"]), media=recording.media, then="stall")
    started = time.monotonic()
    answer = await ask(recording.build(transport, endpoint(server, chunk=0.25)))
    # and not by the longer limit of the first byte, whose timer was running
    assert time.monotonic() - started < 10
    assert answer.text == "a"
    assert isinstance(answer.error, ModelTimeout)
    assert answer.error.extra["limit"] == "chunk"
    await asyncio.wait_for(server.all_closed.wait(), 10)


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], ids=["no head", "head"]
)
async def test_a_first_byte_that_does_not_come_ends_by_its_limit(
    server: RawServer, transport: HttpTransport, head: bytes
) -> None:
    server.answer_raw(head, then="stall")
    answer = await ask(model(server, transport, first_byte=0.25))
    assert isinstance(answer.error, ModelTimeout)
    assert answer.error.extra == {"limit": "first_byte", "seconds": 0.25}
    await asyncio.wait_for(server.all_closed.wait(), 10)


async def test_the_whole_answer_has_a_limit_even_while_pieces_come(server: RawServer, transport: HttpTransport) -> None:
    server.answer(*[GOOD] * 3, then="stall")
    answer = await ask(model(server, transport, whole=1.0))
    assert answer.text == "hihihi"
    assert isinstance(answer.error, ModelTimeout)
    assert answer.error.extra["limit"] == "whole"


async def test_a_reader_who_pauses_is_not_taken_for_a_silent_model(server: RawServer, transport: HttpTransport) -> None:
    server.answer(GOOD, END)
    batches = model(server, transport, chunk=0.4).stream(PROMPT)
    events = await anext(batches)
    await asyncio.sleep(0.9)
    async for batch in batches:
        events += batch
    assert Finished("stop") in events


async def test_a_finish_reason_without_done_is_a_whole_answer_even_when_the_server_holds_on(
    server: RawServer, transport: HttpTransport
) -> None:
    server.answer(GOOD + END.removesuffix(b"data: [DONE]\n\n"), then="stall")
    answer = await ask(model(server, transport, chunk=0.2))
    assert answer.error is None
    assert answer.events[-1] == Finished("stop")


async def test_done_without_a_finish_reason_is_no_end(server: RawServer, transport: HttpTransport) -> None:
    server.answer(GOOD, b"data: [DONE]\n\n")
    answer = await ask(model(server, transport))
    assert answer.error is not None
    assert answer.error.code == "model_interrupted"


async def test_leaving_closes_the_socket_before_it_returns(
    recording: Recording, server: RawServer, transport: HttpTransport
) -> None:
    server.answer(recording.tokens(["a"]), media=recording.media, then="stall")
    batches = recording.build(transport, endpoint(server)).stream(PROMPT)
    assert TextDelta("a") in await anext(batches)
    await batches.aclose()
    assert not established(server)
    await asyncio.wait_for(server.all_closed.wait(), 10)


@pytest.mark.parametrize("pieces", [(), (GOOD,)], ids=["before the first byte", "after it"])
async def test_cancelling_the_reader_closes_the_socket(
    server: RawServer, transport: HttpTransport, pieces: tuple[bytes, ...]
) -> None:
    if pieces:
        server.answer(*pieces, then="stall")
    else:
        server.answer_raw(then="stall")
    task = asyncio.create_task(ask(model(server, transport)))
    await asyncio.wait_for(server.asked.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.all_closed.wait(), 10)


REFUSALS: list[tuple[int, str, str]] = [
    (400, "", "model_refused"),
    (400, "This model's maximum context length is 4096 tokens", "model_refused"),
    (400, "API key not valid. Please pass a valid API key.", "model_misconfigured"),
    (400, "The model `x` does not exist", "model_misconfigured"),
    (401, "", "model_misconfigured"),
    (402, "Insufficient Balance", "model_overloaded"),
    (403, "", "model_misconfigured"),
    (404, "", "model_misconfigured"),
    (408, "", "model_unavailable"),
    (413, "", "model_refused"),
    (422, "", "model_refused"),
    (429, "", "model_overloaded"),
    (500, "", "model_unavailable"),
    (502, "<html>bad gateway</html>", "model_unavailable"),
    (503, "", "model_unavailable"),
    (529, "overloaded_error", "model_overloaded"),
    (302, "", "model_misconfigured"),
]


@pytest.mark.parametrize(("status", "words", "code"), REFUSALS)
async def test_a_refusal_becomes_one_of_our_errors_and_hides_the_providers_words(
    server: RawServer, transport: HttpTransport, status: int, words: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="llmchatbot")
    server.answer(f'{{"error":{{"message":"{words} {CANARY} {KEY}"}}}}'.encode(), status=status)
    answer = await ask(model(server, transport))
    assert answer.error is not None
    assert answer.error.code == code
    for said in (str(answer.error), str(answer.error.extra), caplog.text):
        assert CANARY not in said
        assert KEY not in said


async def test_a_wrong_key_names_its_setting_and_never_the_key(server: RawServer, transport: HttpTransport) -> None:
    server.answer(b"{}", status=401)
    answer = await ask(model(server, transport))
    assert isinstance(answer.error, ModelMisconfigured)
    assert "SOME_KEY" in answer.error.detail
    assert KEY not in answer.error.detail


async def test_a_missing_key_is_told_without_a_call(server: RawServer, transport: HttpTransport) -> None:
    without = msgspec.structs.replace(endpoint(server), key=type(ENDPOINT.key)())
    answer = await ask(OpenAiChatModel(transport, without))
    assert isinstance(answer.error, ModelMisconfigured)
    assert "set SOME_KEY" in answer.error.detail
    assert not server.heads


async def test_a_context_that_is_too_long_is_told_apart(server: RawServer, transport: HttpTransport) -> None:
    server.answer(b'{"error":{"code":"context_length_exceeded","message":"..."}}', status=400)
    answer = await ask(model(server, transport))
    assert answer.error is not None
    assert answer.error.extra["reason"] == "context_too_long"


async def test_retry_after_is_kept(server: RawServer, transport: HttpTransport) -> None:
    server.answer_raw(b"HTTP/1.1 429 X\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n")
    answer = await ask(model(server, transport))
    assert answer.error is not None
    assert answer.error.extra["retry_after"] == 3


async def test_nobody_there_is_unavailable_and_names_the_setting(transport: HttpTransport) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    nobody = msgspec.structs.replace(ENDPOINT, url=f"http://127.0.0.1:{port}/v1")
    answer = await ask(OpenAiChatModel(transport, nobody))
    assert answer.error is not None
    assert answer.error.code == "model_unavailable"
    assert "LLM_SERVICE_URL" in answer.error.detail


@pytest.mark.parametrize("junk", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 two hundred\r\n\r\n"])
async def test_a_server_that_does_not_speak_http_is_a_protocol_error(
    server: RawServer, transport: HttpTransport, junk: bytes
) -> None:
    server.answer_raw(junk, then="cut")
    answer = await ask(model(server, transport))
    assert answer.error is not None
    assert answer.error.code == "model_protocol_error"


async def test_a_redirect_is_not_followed_and_the_key_does_not_travel(
    server: RawServer, transport: HttpTransport
) -> None:
    async with RawServer() as other:
        other.answer(GOOD, END)
        location = f"{other.url}/chat/completions"
        server.answer_raw(f"HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        answer = await ask(model(server, transport))
        assert isinstance(answer.error, ModelMisconfigured)
        assert not other.heads


async def test_a_call_that_would_leave_the_keys_origin_is_not_made(server: RawServer, transport: HttpTransport) -> None:
    elsewhere = HttpRequest(endpoint=ENDPOINT, url=server.url, headers={})
    with pytest.raises(ModelMisconfigured):
        await transport.open(elsewhere)
    assert not server.heads


async def test_the_proxies_of_the_environment_are_ignored_unless_set(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = HttpTransport()
    async with RawServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        server.answer(GOOD, END)
        proxy.answer(GOOD, END)
        assert (await ask(model(server, transport))).error is None
        assert not proxy.heads
        trusting = HttpTransport(trust_environment_proxies=True)
        assert (await ask(model(server, trusting))).error is None
        assert proxy.heads
        await trusting.aclose()


async def test_a_head_without_an_end_is_given_up(server: RawServer, transport: HttpTransport) -> None:
    """The parser speaks of whole lines alone: one that never ends was kept as long as the call had time."""
    server.answer_raw(b"HTTP/1.1 200 OK\r\nX-Endless: " + b"a" * 1_000_000)
    answer = await ask(model(server, transport))
    assert isinstance(answer.error, ModelError)
    assert "HTTP" in str(answer.error)


async def test_a_closed_transport_refuses_with_a_model_error(server: RawServer) -> None:
    transport = HttpTransport()
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(ModelError):
        await transport.open(HttpRequest(endpoint=endpoint(server), url=server.url, headers={}))


KEPT = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b"


def keeping(server: RawServer) -> OpenAiChatModel:
    return OpenAiChatModel(HttpTransport(), msgspec.structs.replace(endpoint(server), keep_alive=True))


async def test_a_connection_of_a_whole_answer_serves_the_next_call_and_one_that_was_left_does_not() -> None:
    async with KeptServer() as server:
        model = keeping(server)
        assert (await ask(model)).text == "hi"
        assert (await ask(model)).text == "hi"
        assert server.connections == 1
        server.missing = 10
        batches = model.stream(PROMPT)
        await anext(batches)
        await batches.aclose()
        server.missing = 0
        assert (await ask(model)).text == "hi"
        assert server.connections == 2
        await model.transport.aclose()


async def test_a_kept_connection_that_the_server_has_closed_costs_no_answer() -> None:
    async with KeptServer(calls_per_connection=1) as server:
        model = keeping(server)
        for _ in range(3):
            answer = await ask(model)
            assert answer.error is None
            assert answer.text == "hi"
        await model.transport.aclose()


async def test_a_server_that_reads_and_closes_gets_a_request_no_more_than_twice() -> None:
    """However many connections are kept: each of its retries is the gateway's decision, with a notice."""
    async with KeptServer() as server:
        model = keeping(server)
        await asyncio.gather(*(ask(model) for _ in range(5)))
        assert server.open == 5
        before, server.silent = server.read, True
        assert (await ask(model)).error is not None
        assert server.read - before == 2
        await model.transport.aclose()


async def test_kept_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmchatbot.llm.connection_pool._IDLE_SECONDS", 0.2)
    async with KeptServer() as server:
        model = keeping(server)
        answers = await asyncio.gather(*(ask(model) for _ in range(5)))
        assert {answer.text for answer in answers} == {"hi"}
        assert server.open == 5
        async with asyncio.timeout(5):
            while server.open:  # noqa: ASYNC110 # the closing of a socket is nobody's event
                await asyncio.sleep(0.05)
        assert (await ask(model)).text == "hi"
        await model.transport.aclose()


class KeptServer(RawServer):
    """Answers `hi` on one connection again and again, and without a word closes it after some calls."""

    def __init__(self, calls_per_connection: int = 100) -> None:
        super().__init__()
        self.connections = self.open = self.read = 0
        # Reads requests, and closes.
        self.silent = False
        # Bytes that are announced and never come.
        self.missing = 0
        self._calls = calls_per_connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        body = GOOD + END
        try:
            for _ in range(self._calls):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.read += 1
                if self.silent:
                    return
                writer.write(KEPT % (len(body) + self.missing, body))
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self.open -= 1
            writer.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_encoding_that_was_not_asked_for_is_unpacked(
    server: RawServer, transport: HttpTransport, encoding: str
) -> None:
    body = gzip.compress(GOOD + END) if encoding == "gzip" else zlib.compress(GOOD + END)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
    server.answer_raw(head % (encoding.encode(), len(body)) + body)
    assert (await ask(model(server, transport))).text == "hi"


async def test_a_body_without_length_ends_with_its_connection(server: RawServer, transport: HttpTransport) -> None:
    server.answer_raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + GOOD + END)
    assert (await ask(model(server, transport))).text == "hi"


async def test_an_early_hint_is_no_answer(server: RawServer) -> None:
    body = GOOD + END
    server.answer_raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + KEPT % (len(body), body))
    transport = HttpTransport()
    assert (await ask(model(server, transport))).text == "hi"
    await transport.aclose()


async def test_a_key_with_a_line_break_becomes_no_second_header(server: RawServer) -> None:
    transport = HttpTransport()
    spoiled = msgspec.structs.replace(endpoint(server), headers={"X-Extra": "a\r\nX-Injected: b"})
    answer = await ask(OpenAiChatModel(transport, spoiled))
    assert isinstance(answer.error, ModelMisconfigured)
    assert not server.heads
    await transport.aclose()


CERTIFICATE = Path(__file__).parent / "tls" / "localhost.crt"


@pytest.fixture
async def tls_server() -> AsyncIterator[RawServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))
    raw = RawServer()
    raw._server = await asyncio.start_server(raw._serve, "127.0.0.1", 0, ssl=context)
    yield raw
    await raw.stop()


def secure(server: RawServer) -> Endpoint:
    return msgspec.structs.replace(endpoint(server), url=server.url.replace("http://127.0.0.1", "https://localhost"))


async def test_over_tls_an_answer_streams_and_leaving_closes_the_socket(
    tls_server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    transport = HttpTransport()
    tls_server.answer(GOOD, END)
    assert (await ask(OpenAiChatModel(transport, secure(tls_server)))).text == "hi"
    tls_server.answers = []
    tls_server.answer(GOOD, then="stall")
    batches = OpenAiChatModel(transport, secure(tls_server)).stream(PROMPT)
    assert TextDelta("hi") in await anext(batches)
    await batches.aclose()
    await asyncio.wait_for(tls_server.all_closed.wait(), 10)
    await transport.aclose()


async def test_over_tls_a_certificate_of_nobody_is_refused(tls_server: RawServer) -> None:
    transport = HttpTransport()
    answer = await ask(OpenAiChatModel(transport, secure(tls_server)))
    assert isinstance(answer.error, ModelUnavailable)
    assert not tls_server.heads
    await transport.aclose()
