"""`llmchatbot bench` against deployments that answer well, badly, and not at all."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from llmchatbot import bench, config
from llmchatbot.errors import StartupError

GOOD = (
    'retry: 1500\ndata: {"type":"start"}\n\n',
    'data: {"type":"token","content":"caf\\u00e9 "}\n\n',
    ":\n",
    'data: {"type":"token","content":"au lait"}\n\n',
    'data: {"type":"complete","status":"completed","content":"caf\\u00e9 au lait","tokens":3}\n\n',
)
ENDINGS = {
    "good": (GOOD, {"completed": 2}),
    "not whole": ((GOOD[1], GOOD[4]), {"completed, but not whole": 2}),
    "cut off": (GOOD[:3], {"cut off": 2}),
    "failed": (('event: error\ndata: {"type":"error","error":"x","code":"model_timeout"}\n\n',), {"model_timeout": 2}),
    "garbage": (("data: <html>\n\n",), {"unreadable frame": 2}),
}


@pytest.fixture
async def deployment(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    frames: tuple[str, ...] = request.param

    async def created(_: web.Request) -> web.Response:
        return web.json_response({"id": "1", "access_token": "t"}, status=201)

    async def answer(incoming: web.Request) -> web.StreamResponse:
        if not frames:
            return web.json_response({"error": "Too many."}, status=429)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(incoming)
        for frame in frames:
            await response.write(frame.encode())
        return response

    async def removed(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/api/v1/auth/guest", created)
    app.router.add_post("/api/v1/chats", created)
    app.router.add_post("/api/v1/chats/1/messages", answer)
    app.router.add_delete("/api/v1/chats/1/permanent", removed)
    runner = web.AppRunner(app)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    assert site._server is not None
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    await runner.cleanup()


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(given)


async def figures_of(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = await asyncio.to_thread(bench.run, arguments("--url", url, "--streams", "2", "--json"))
    return code, capsys.readouterr().out


@pytest.mark.parametrize(("deployment", "endings"), ENDINGS.values(), ids=ENDINGS.keys(), indirect=["deployment"])
async def test_each_ending_is_named(
    deployment: str, endings: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = await figures_of(deployment, capsys)
    (ending,) = endings
    assert f'"{ending}":2' in out
    assert code == (0 if ending == "completed" else 1)


@pytest.mark.parametrize("deployment", [()], indirect=True)
async def test_a_refusal_is_told_with_its_reason(deployment: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = await asyncio.to_thread(bench.run, arguments("--url", deployment, "--json"))
    out, told = capsys.readouterr()
    assert code == 1
    assert '"429: Too many.":3' in out
    assert told.startswith("3 of 3 answers were refused")
    assert "429: Too many.\n" in told
    assert "MAX_ACTIVE_GENERATIONS" in told


def test_no_more_streams_than_a_deployment_lets_one_person_have() -> None:
    assert arguments().streams == config.Settings().limits.active_generations


async def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(StartupError, match="cannot be reached"):
        await asyncio.to_thread(bench.run, arguments("--url", "http://127.0.0.1:1"))


@pytest.mark.parametrize("given", [("--streams", "0"), ("--streams", "1000", "--rounds", "3")])
def test_the_load_is_bounded(given: tuple[str, ...]) -> None:
    with pytest.raises(StartupError, match="between 1 and"):
        bench.run(arguments(*given))


def test_a_password_never_stands_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMCHATBOT_PASSWORD", raising=False)
    with pytest.raises(StartupError, match="LLMCHATBOT_PASSWORD"):
        bench.run(arguments("--url", "http://127.0.0.1:1", "--email", "a@example.com"))


def test_quantiles_of_nothing_are_nothing() -> None:
    assert bench.quantiles([]) == {}
    assert bench.quantiles([0.001, 0.002, 0.1])["p50"] == 2.0
