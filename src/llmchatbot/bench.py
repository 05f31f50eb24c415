"""`llmchatbot bench`: how a running deployment streams, seen from outside, with an account of it.

Opens so many chats at once, asks each the same, and reports the time to the first token, the pauses between tokens, and
the throughput. It is a client like any other: what it sees includes the network, every proxy and the model itself. And
it is one person, to whom the deployment gives no more answers at once than to any other. To compare this product with
others on one machine, see `make bench` in the repository.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence

import aiohttp
import msgspec

from llmchatbot.config import LimitSettings
from llmchatbot.errors import ModelProtocolError, StartupError
from llmchatbot.llm.decoder import SseDecoder

_LARGEST_LOAD = 2000
_CONNECT_SECONDS = 10.0
_USUAL_LIMIT = LimitSettings().active_generations
_STREAMS = (
    f"answers at once, default {_USUAL_LIMIT}: this is one person, to whom the deployment gives no more. For more "
    "raise MAX_ACTIVE_GENERATIONS there, and MESSAGES_PER_MINUTE for many rounds"
)
_SHARES = (0.5, 0.95, 0.99)


class Frame(msgspec.Struct):
    """One frame of an answer, as far as it is counted. `tokens` is the count in the last frame."""

    type: str = ""
    content: str = ""
    status: str = ""
    tokens: int = 0
    code: str = ""


class Measured(msgspec.Struct, kw_only=True):
    """One answer. Seconds; `ending` is the status in its last frame, or what went wrong instead."""

    accepted: float = 0.0
    """Request sent to the first frame: the message is stored."""
    first_token: float = 0.0
    gaps: list[float] = []
    characters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    whole: bool = False
    """Whether the last frame's text is what the frames before it added up to."""
    ending: str = ""
    refused: bool = False
    """Whether there was no stream at all: `ending` is the HTTP status and the reason then."""


class _Created(msgspec.Struct):
    id: str = ""
    access_token: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="base URL of the deployment")
    parser.add_argument("--streams", type=int, default=_USUAL_LIMIT, help=_STREAMS)
    parser.add_argument("--rounds", type=int, default=1, help="answers of each stream, one after the other")
    parser.add_argument("--message", default="Tell me a story of about three hundred words.", help="what is asked")
    parser.add_argument("--model", default="", help="public name of a model; default: the deployment's")
    parser.add_argument("--timeout", type=float, default=120.0, help="longest time for one answer, in seconds")
    parser.add_argument("--email", help="account to use; its password comes from LLMCHATBOT_PASSWORD")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 when every answer was complete, 1 otherwise. Raises StartupError when the deployment refuses."""
    if not 1 <= arguments.streams * arguments.rounds <= _LARGEST_LOAD:
        raise StartupError(f"--streams times --rounds lies between 1 and {_LARGEST_LOAD}.")
    began = time.monotonic()
    answers = asyncio.run(_measure(arguments))
    figures = summary(answers, time.monotonic() - began)
    text = msgspec.json.encode(figures).decode() if arguments.json else table(figures)
    sys.stdout.write(text + "\n")
    if refused := [answer.ending for answer in answers if answer.refused]:
        sys.stderr.write(
            f"{len(refused)} of {len(answers)} answers were refused: the figures are not those of the load asked for.\n"
            f"The first refusal: {refused[0]}\n"
            "After 429: fewer --streams, or raise MAX_ACTIVE_GENERATIONS and MESSAGES_PER_MINUTE of the deployment.\n"
        )
    return 0 if all(answer.ending == "completed" and answer.whole for answer in answers) else 1


async def _measure(arguments: argparse.Namespace) -> list[Measured]:
    timeout = aiohttp.ClientTimeout(total=arguments.timeout, sock_connect=_CONNECT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(arguments.url, connector=connector, timeout=timeout) as session:
        try:
            authorization = await _authorize(session, arguments.email)
            headers = {"Authorization": f"Bearer {authorization}"}
            chats = [await _create_chat(session, headers) for _ in range(arguments.streams)]
        except aiohttp.ClientError as error:
            raise StartupError(f"{arguments.url} cannot be reached: {error}. Is --url right?") from error
        body = {"content": arguments.message} | ({"model": arguments.model} if arguments.model else {})

        async def stream(chat: str) -> list[Measured]:
            return [await measure_answer(session, chat, headers, body) for _ in range(arguments.rounds)]

        results = await asyncio.gather(*(stream(chat) for chat in chats))
        await asyncio.gather(*(_remove_chat(session, headers, chat) for chat in chats))
    return [answer for answers in results for answer in answers]


async def _authorize(session: aiohttp.ClientSession, email: str | None) -> str:
    if email is None:
        return (await _post(session, "/api/v1/auth/guest", {}, {})).access_token
    password = os.environ.get("LLMCHATBOT_PASSWORD", "")
    if not password:
        raise StartupError("Set LLMCHATBOT_PASSWORD to the password of --email.")
    return (await _post(session, "/api/v1/auth/login", {"email": email, "password": password}, {})).access_token


async def _create_chat(session: aiohttp.ClientSession, headers: dict[str, str]) -> str:
    return (await _post(session, "/api/v1/chats", {"title": "Benchmark"}, headers)).id


async def _remove_chat(session: aiohttp.ClientSession, headers: dict[str, str], chat: str) -> None:
    async with session.delete(f"/api/v1/chats/{chat}/permanent", headers=headers):
        pass


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, str], headers: dict[str, str]) -> _Created:
    async with session.post(path, json=body, headers=headers) as response:
        data = await response.read()
        if response.status >= 400:
            raise StartupError(f"POST {path} was refused with {response.status}: {_reason(data)}")
        return msgspec.json.decode(data, type=_Created)


def _reason(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data, type=dict[str, object]).get("error", ""))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "no reason was given"


async def measure_answer(
    session: aiohttp.ClientSession, chat: str, headers: dict[str, str], body: dict[str, str]
) -> Measured:
    """Ask once and read the answer to its end. Never raises: what goes wrong is its `ending`."""
    measured = Measured()
    began = time.monotonic()
    try:
        async with session.post(
            f"/api/v1/chats/{chat}/messages", json=body, headers={**headers, "Accept": "text/event-stream"}
        ) as response:
            if response.status not in {200, 201}:
                measured.refused = True
                measured.ending = f"{response.status}: {_reason(await response.read())}"
                return measured
            await _read(response.content, measured, began)
    except (aiohttp.ClientError, TimeoutError) as error:
        measured.ending = type(error).__name__
    except (msgspec.MsgspecError, UnicodeDecodeError, ModelProtocolError):
        measured.ending = "unreadable frame"
    measured.seconds = time.monotonic() - began
    return measured


async def _read(content: aiohttp.StreamReader, measured: Measured, began: float) -> None:
    decoder = SseDecoder()
    previous = 0.0
    parts: list[str] = []
    async for chunk in content.iter_any():
        now = time.monotonic()
        measured.accepted = measured.accepted or now - began
        for _, data in decoder.feed(chunk):
            frame = msgspec.json.decode(data, type=Frame)
            if frame.type == "token":
                if previous:
                    measured.gaps.append(now - previous)
                else:
                    measured.first_token = now - began
                previous = now
                parts.append(frame.content)
            elif frame.type == "reset":
                parts = [frame.content]
            elif frame.type == "complete":
                text = "".join(parts)
                measured.whole, measured.characters = frame.content == text, len(text)
                measured.tokens, measured.ending = frame.tokens, frame.status or "completed"
                return
            elif frame.type == "error":
                measured.ending = frame.code or "error"
                return
    measured.ending = "cut off"


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds at p50, p95 and p99; empty of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {f"p{share * 100:.0f}": round(ordered[int(share * (len(ordered) - 1))] * 1000, 1) for share in _SHARES}


def summary(answers: Sequence[Measured], seconds: float) -> dict[str, object]:
    """The figures of a run that took `seconds`."""
    endings: dict[str, int] = {}
    for answer in answers:
        ending = answer.ending if answer.whole or answer.ending != "completed" else "completed, but not whole"
        endings[ending] = endings.get(ending, 0) + 1
    tokens = sum(answer.tokens for answer in answers)
    return {
        "answers": len(answers),
        "endings": endings,
        "seconds": round(seconds, 2),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "accepted_ms": quantiles([answer.accepted for answer in answers if answer.accepted]),
        "first_token_ms": quantiles([answer.first_token for answer in answers if answer.first_token]),
        "pause_between_frames_ms": quantiles([gap for answer in answers for gap in answer.gaps]),
        "answer_ms": quantiles([answer.seconds for answer in answers if answer.ending == "completed"]),
    }


def table(figures: dict[str, object]) -> str:
    """The figures for a person."""
    lines = []
    for name, value in figures.items():
        shown = ", ".join(f"{key} {number}" for key, number in value.items()) if isinstance(value, dict) else value
        lines.append(f"{name.replace('_', ' '):<26}{shown}")
    return "\n".join(lines)
