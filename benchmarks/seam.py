"""What the model seam costs: the decoder per event, and the whole gateway against the bare minimum per chunk.

    python benchmarks/seam.py            # about ten seconds

The upstream is a process of its own that sends 310-byte chunks, as OpenAI's are. CPU is user + system time of this
process (getrusage), so a busy machine does not change the ratios; both sides read the same stream in turns, and the
median of the rounds counts, net of opening the requests. Exits with 1 when a limit is passed: an event, in any shape of
input, takes as long as `json.loads` needs to read it, or the seam 1.3 times raw in the median of the cases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import resource
import statistics
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import cast

import aiohttp
import msgspec
import uvloop

from llmchatbot.config import ModelSettings
from llmchatbot.llm.decoder import NdjsonDecoder, SseDecoder
from llmchatbot.llm.events import Event, TextDelta
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway
from llmchatbot.llm.openai_chat import Chunk
from llmchatbot.llm.port import Parameters, PromptMessage

DECODER_LIMIT = 1.0
SEAM_LIMIT = 1.3

CHUNK = (
    b'data: {"id":"chatcmpl-BxQ0000000000000000000000000000","object":"chat.completion.chunk","created":1732310000,'
    b'"model":"gpt-x-2026-11-01","service_tier":"default","system_fingerprint":"fp_0000000000",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null,'
    b'"obfuscation":"abcdefghijk"}\n\n'
)
END = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}\n\ndata: [DONE]\n\n'
)


def cpu() -> float:
    """Seconds of user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Source(asyncio.Protocol):
    """Answers every POST with `max_tokens` chunks, `per_write` in a segment, one segment each `tick` seconds."""

    def __init__(self, per_write: int, tick: float) -> None:
        self._per_write, self._tick = per_write, tick
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if b"\r\n\r\n" in self._seen and self._seen.endswith(b"}"):
            wanted = re.search(rb'"max_tokens":(\d+)', self._seen)
            self._seen = b""
            task = asyncio.get_running_loop().create_task(self._send(int(wanted[1]) if wanted else 0))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, chunks: int) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(chunks // self._per_write):
            # The filler has another length each time, as OpenAI's has.
            frame = CHUNK.replace(b"abcdefghijk", b"abcdefghijk"[number % 11 :]) * self._per_write
            self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            await asyncio.sleep(self._tick)
        self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(END), END))


def _serve(pipe: Connection, per_write: int, tick: float) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Source(per_write, tick), "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


async def raw(url: str, streams: int, chunks: int) -> int:
    """The least that reads such a stream: aiohttp, a split at blank lines, msgspec."""
    decoder = msgspec.json.Decoder(Chunk)
    counts = [0]

    async def one(session: aiohttp.ClientSession) -> None:
        body = b'{"model":"x","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":%d}' % chunks
        async with session.post(url + "/chat/completions", data=body) as response:
            rest = b""
            while chunk := await response.content.readany():
                *events, rest = (rest + chunk).split(b"\n\n")
                for event in events:
                    if event.startswith(b"data: {"):
                        choices = decoder.decode(event[6:]).choices
                        if choices and choices[0].delta and choices[0].delta.content:
                            counts[0] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=256 * 1024) as session:
        await asyncio.gather(*(one(session) for _ in range(streams)))
    return counts[0]


class Counting:
    """A sink that only counts, for all answers together."""

    size = 0

    def __init__(self) -> None:
        self.count = 0

    def text(self, piece: str) -> None:
        self.count += 1

    def events(self, batch: list[Event]) -> None:
        for event in batch:
            if type(event) is TextDelta:
                self.count += 1


async def seam(url: str, streams: int, chunks: int) -> int:
    """The whole seam as the product uses it, from the gateway down."""
    settings = ModelSettings(service_url=url, service_protocol="openai", service_model="x")
    gateway = ModelGateway.from_settings(settings)
    request = GatewayRequest(
        model="",
        messages=(PromptMessage(role="user", content="hi"),),
        parameters=Parameters(max_tokens=chunks),
    )
    counting = Counting()

    async def one() -> None:
        async for batch in gateway.stream(request, counting):
            counting.events(batch)

    await asyncio.gather(*(one() for _ in range(streams)))
    await gateway.aclose()
    return counting.count


Reader = Callable[[str, int, int], Awaitable[int]]


async def _cost(reader: Reader, url: str, streams: int, chunks: int) -> float:
    """Seconds of CPU for reading `streams` answers of `chunks` chunks each."""
    started = cpu()
    count = await reader(url, streams, chunks)
    spent = cpu() - started
    if count != streams * chunks:
        raise SystemExit(f"{reader.__name__} read {count} chunks instead of {streams * chunks}")
    return spent


async def _per_chunk(reader: Reader, url: str, streams: int, chunks: int, few: int) -> tuple[float, float]:
    """Microseconds of CPU per chunk, net of opening the requests, and per request: from a long and a short run."""
    short = await _cost(reader, url, streams, few)
    long = await _cost(reader, url, streams, chunks)
    per_chunk = (long - short) / (streams * (chunks - few))
    return per_chunk * 1e6, (short / streams - few * per_chunk) * 1e6


def compare(name: str, *, streams: int, chunks: int, per_write: int, tick: float, rounds: int) -> dict[str, object]:
    """Both readers in turns against one source; medians."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, per_write, tick), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"

    async def run() -> dict[str, object]:
        results: dict[str, list[tuple[float, float]]] = {"raw": [], "seam": []}
        await raw(url, streams, per_write)
        await seam(url, streams, per_write)
        for _ in range(rounds):
            for reader in (raw, seam):
                results[reader.__name__].append(await _per_chunk(reader, url, streams, chunks, per_write * 2))
        chunk = {side: statistics.median(pair[0] for pair in pairs) for side, pairs in results.items()}
        request = {side: statistics.median(pair[1] for pair in pairs) for side, pairs in results.items()}
        return {
            "case": name,
            "raw_us": round(chunk["raw"], 2),
            "seam_us": round(chunk["seam"], 2),
            "ratio": round(chunk["seam"] / chunk["raw"], 2),
            "raw_request_us": round(request["raw"]),
            "seam_request_us": round(request["seam"]),
        }

    try:
        return uvloop.run(run())
    finally:
        process.terminate()
        process.join()


def decoder_cost(count: int = 50_000) -> list[dict[str, object]]:
    """Microseconds of CPU per event, by the shape of the input, and how many times as long as `json.loads` takes."""
    yardstick = min(_cost_of(lambda: json.loads(CHUNK[6:]), count // 10) for _ in range(3))
    event = b"event: message\nid: 17\ndata: " + CHUNK[6:]
    line = b'{"type":"token","content":" token","tokens":1}\n'
    cases: list[tuple[str, SseDecoder | NdjsonDecoder, bytes, int]] = [
        ("sse data only, 50 a chunk", SseDecoder(), CHUNK * 50, 50),
        ("sse data only, 1 a chunk", SseDecoder(), CHUNK, 1),
        ("sse data only, CRLF", SseDecoder(), CHUNK.replace(b"\n", b"\r\n") * 10, 10),
        ("sse with event and id", SseDecoder(), event * 10, 10),
        ("ndjson, 50 a chunk", NdjsonDecoder(), line * 50, 50),
        ("ndjson, 1 a chunk", NdjsonDecoder(), line, 1),
    ]
    table: list[dict[str, object]] = []
    for name, decoder, chunk, events in cases:
        feed = partial(decoder.feed, chunk)
        best = min(_cost_of(feed, count // events) for _ in range(3)) / events
        table.append({"case": name, "us_per_event": round(best * 1e6, 2), "ratio": round(best / yardstick, 2)})
    return table


def _cost_of(call: Callable[[], object], repeat: int) -> float:
    """Seconds of CPU."""
    started = cpu()
    for _ in range(repeat):
        call()
    return (cpu() - started) / repeat


def main() -> int:
    """Run all, print a table, compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    decoders = decoder_cost()
    rounds = options.rounds
    seams = [
        compare("1 stream, 1 chunk a segment", streams=1, chunks=1500, per_write=1, tick=0.001, rounds=rounds),
        compare("1 stream, 10 a segment", streams=1, chunks=10000, per_write=10, tick=0.001, rounds=rounds),
        compare("200 streams, 1 a segment", streams=200, chunks=60, per_write=1, tick=0.01, rounds=rounds),
        compare("200 streams, 10 a segment", streams=200, chunks=300, per_write=10, tick=0.02, rounds=rounds),
    ]
    if options.json:
        print(json.dumps({"decoder": decoders, "seam": seams}, indent=1))
    else:
        for row in decoders:
            print(f"{row['case']:32} {row['us_per_event']:>8} µs an event   ratio to json.loads {row['ratio']}")
        for row in seams:
            print(
                f"{row['case']:32} raw {row['raw_us']:>7}   seam {row['seam_us']:>7} µs a chunk   ratio {row['ratio']}"
                f"   (a request: {row['raw_request_us']} and {row['seam_request_us']} µs)"
            )
    slow = any(float(str(row["ratio"])) > DECODER_LIMIT for row in decoders)
    dear = statistics.median(float(str(row["ratio"])) for row in seams) > SEAM_LIMIT
    return 1 if slow or dear else 0


if __name__ == "__main__":
    sys.exit(main())
