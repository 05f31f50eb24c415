"""`models pull` over a network that fails in every way: the file is whole and right, or it is not there."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from llmchatbot.errors import StartupError
from llmchatbot.llm_service import pull
from llmchatbot.llm_service.catalogue import catalogue, find_model
from llmchatbot.llm_service.download import Downloader, RemoteFile
from llmchatbot.llm_service.part_file import PartFile

CONTENT = b"GGUF" + random.Random(1).randbytes(3_000_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A file server that can cut, lie, refuse and change its mind."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"one"'
        self.ranges = True
        self.head = True
        self.cuts: list[int] = []  # bytes sent before the connection is cut, one for each request to come
        self.statuses: list[int] = []  # statuses of the requests to come
        self.linked = False  # redirect as Hugging Face does
        self.asked: list[str] = []  # the Range of every GET
        self.sent = 0
        self.url = ""

    async def start(self) -> Callable[[], Awaitable[None]]:
        application = web.Application()
        application.router.add_route("*", "/model.gguf", self.entry)
        application.router.add_route("*", "/storage", self.serve)
        application.router.add_route("*", "/circle.gguf", self.circle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/model.gguf"
        return runner.cleanup

    async def circle(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/circle.gguf")

    async def entry(self, request: web.Request) -> web.StreamResponse:
        if not self.linked:
            return await self.serve(request)
        headers = {"X-Linked-Size": str(len(self.content)), "X-Linked-ETag": f'"{SUM}"', "Location": "/storage"}
        return web.Response(status=302, headers=headers)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        size, headers = len(self.content), {"ETag": self.etag}
        if request.method == "HEAD":
            return (
                web.Response(headers={**headers, "Content-Length": str(size)})
                if self.head
                else web.Response(status=405)
            )
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        fits = self.ranges and request.headers.get("If-Range", self.etag) == self.etag
        start, _, end = wanted.removeprefix("bytes=").partition("-") if wanted and fits else ("0", "", "")
        body = self.content[int(start) : int(end) + 1 if end else size]
        if wanted and fits:
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(body) - 1}/{size}"
        response = web.StreamResponse(status=206 if wanted and fits else 200, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else None
        await response.write(body[:cut])
        self.sent += len(body[:cut])
        if cut is not None and request.transport is not None:
            request.transport.abort()
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    cleanup = await server.start()
    yield server
    await cleanup()


@pytest.fixture
async def downloader() -> AsyncIterator[Downloader]:
    async with aiohttp.ClientSession() as session:
        yield Downloader(session, attempts=3, pause=0.001, chunk_timeout=2)


async def fetched(downloader: Downloader, server: Server, target: Path) -> str:
    remote = await downloader.look(server.url, sha256=SUM)
    return await downloader.fetch(remote, target, lambda have, total: None)


async def test_a_whole_download_leaves_the_file_and_its_sum_and_nothing_else(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    target = tmp_path / "models" / "model.gguf"
    assert await fetched(downloader, server, target) == SUM
    assert target.read_bytes() == CONTENT
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.gguf", "model.gguf.sha256"]
    assert (target.parent / "model.gguf.sha256").read_text() == f"{SUM}  model.gguf\n"


@pytest.mark.parametrize("linked", [False, True])
async def test_a_connection_cut_again_and_again_is_resumed_each_time(
    server: Server, downloader: Downloader, tmp_path: Path, linked: bool
) -> None:
    server.linked = linked
    server.cuts = [500_000, 1, 700_000, 300_000, 900_000]
    assert await fetched(downloader, server, tmp_path / "model.gguf") == SUM
    assert server.asked[0] == ""
    assert all(wanted.startswith("bytes=") for wanted in server.asked[1:])
    # What is lost of a cut is what was on its way, never what had arrived.
    assert server.sent < len(CONTENT) + 6 * (1 << 20)


async def test_a_download_that_gave_up_goes_on_at_the_next_call(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    target = tmp_path / "model.gguf"
    server.cuts = [2_500_000, 0, 0, 0]
    with pytest.raises(StartupError, match=r"broke off 3 times.*run the command again"):
        await fetched(downloader, server, target)
    kept = (tmp_path / "model.gguf.part").stat().st_size
    assert not target.exists()
    assert kept > 1_000_000
    server.asked.clear()
    assert await fetched(downloader, server, target) == SUM
    assert server.asked == [f"bytes={kept}-"]


async def test_a_file_that_changed_meanwhile_is_begun_anew(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.content = b"GGUF" + bytes(len(CONTENT) - 4)
    server.cuts = [2_000_000, 0, 0, 0]
    with pytest.raises(StartupError):
        await fetched(downloader, server, tmp_path / "model.gguf")
    server.content, server.etag, server.cuts = CONTENT, '"two"', []
    assert await fetched(downloader, server, tmp_path / "model.gguf") == SUM


async def test_a_server_that_cannot_resume_is_asked_for_everything(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    server.ranges, server.cuts = False, [2_000_000]
    assert await fetched(downloader, server, tmp_path / "model.gguf") == SUM


async def test_a_busy_server_is_asked_again(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert await fetched(downloader, server, tmp_path / "model.gguf") == SUM
    server.statuses = [503] * 3
    with pytest.raises(StartupError, match=r"cannot be reached: .* answers with status 503"):
        await downloader.look(server.url)


async def test_a_wrong_sum_deletes_what_arrived(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(StartupError, match=f"instead of {SUM}"):
        await fetched(downloader, server, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


async def test_a_page_instead_of_a_model_is_not_kept(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    server.content = b"<!doctype html>Please log in" * 10
    remote = await downloader.look(server.url)
    with pytest.raises(StartupError, match="not a GGUF model"):
        await downloader.fetch(remote, tmp_path / "model.gguf", lambda have, total: None)
    assert list(tmp_path.iterdir()) == []


async def test_size_and_sum_come_from_the_redirect_as_hugging_face_gives_them(
    server: Server, downloader: Downloader
) -> None:
    server.linked = True
    assert await downloader.look(server.url) == RemoteFile(url=server.url, size=len(CONTENT), sha256=SUM)


@pytest.mark.parametrize("head", [True, False])
async def test_other_servers_name_size_and_perhaps_the_sum(server: Server, downloader: Downloader, head: bool) -> None:
    server.head = head
    assert await downloader.look(server.url) == RemoteFile(url=server.url, size=len(CONTENT), sha256="")
    server.etag = f'"{SUM}"'
    assert (await downloader.look(server.url)).sha256 == SUM


async def test_a_file_of_another_size_than_the_catalogues_is_refused_before_a_byte_of_it(
    server: Server, downloader: Downloader
) -> None:
    with pytest.raises(StartupError, match="it is another file now"):
        await downloader.look(server.url, size=5)
    assert server.asked == []


@pytest.mark.parametrize(("status", "words"), [(401, "login"), (403, "login"), (404, "does not have"), (400, "400")])
async def test_refusals_say_who_refused(server: Server, downloader: Downloader, status: int, words: str) -> None:
    server.head, server.statuses = False, [405, status]
    with pytest.raises(StartupError, match=rf"127\.0\.0\.1.*{words}"):
        await downloader.look(server.url)


async def test_redirects_in_circles_end(server: Server, downloader: Downloader) -> None:
    with pytest.raises(StartupError, match="in circles"):
        await downloader.look(server.url.replace("model", "circle"))


async def test_two_downloads_of_one_file_do_not_mix(server: Server, downloader: Downloader, tmp_path: Path) -> None:
    with PartFile(tmp_path / "model.gguf"), pytest.raises(StartupError, match="Another download"):
        await fetched(downloader, server, tmp_path / "model.gguf")


async def test_a_disk_that_is_full_is_told_before_the_download(
    server: Server, downloader: Downloader, tmp_path: Path
) -> None:
    remote = RemoteFile(url=server.url, size=1 << 60, sha256="")
    with pytest.raises(StartupError, match="bytes left"):
        await downloader.fetch(remote, tmp_path / "model.gguf", lambda have, total: None)


def test_the_catalogue_is_sound() -> None:
    models = catalogue()
    assert len({model.name for model in models}) == len(models) >= 5
    for model in models:
        assert len(model.sha256) == 64
        assert int(model.sha256, 16)
        assert model.size > 100_000_000
        assert model.url.startswith("https://huggingface.co/")
        assert "/resolve/main/" not in model.url, "a branch moves; name a revision"
        assert model.licence == "Apache-2.0"
        assert find_model(model.name) == model


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-99", r"no model 'gpt-99'.*qwen2\.5-1\.5b"),
        ("http://example.org/a.gguf", "https://"),
        ("file:///etc/passwd.gguf", "https://"),
        ("https://example.org/a.zip", r"ends in 'a\.zip'"),
        ("https://example.org/", "ends in ''"),
    ],
)
def test_an_unfit_name_or_address_is_refused(name: str, words: str) -> None:
    with pytest.raises(StartupError, match=f"(?s){words}"):
        find_model(name)


def test_an_address_never_leads_out_of_the_folder() -> None:
    assert find_model("https://example.org/..%2f..%2fa.gguf").file_name == "a.gguf"
    with pytest.raises(StartupError):
        find_model("https://example.org/%2e%2e.gguf")


def test_plain_http_needs_the_sum_that_the_file_must_have() -> None:
    assert find_model("http://mirror.example/a.gguf", sha256=SUM.upper()).sha256 == SUM


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    pull.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


async def test_the_command_shows_the_size_downloads_and_then_finds_it_there(
    server: Server, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(server.url, "--yes", "--sha256", SUM)
    assert await asyncio.to_thread(pull.run, command) == 0
    shown = capsys.readouterr()
    assert "size  3.0 MB" in shown.out
    assert f"{SUM} (known beforehand)" in shown.out
    assert "100 %" in shown.err
    assert (data_dir / "models" / "model.gguf").read_bytes() == CONTENT
    assert await asyncio.to_thread(pull.run, command) == 0
    assert "its sum is right" in capsys.readouterr().out
    (data_dir / "models" / "model.gguf").write_bytes(b"GGUF rotten")
    with pytest.raises(StartupError, match="is damaged"):
        await asyncio.to_thread(pull.run, command)


async def test_the_command_asks_and_downloads_nothing_without_a_yes(
    server: Server, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(StartupError, match="--yes"):
        await asyncio.to_thread(pull.run, arguments(server.url))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert await asyncio.to_thread(pull.run, arguments(server.url)) == 1
    assert server.asked == []
    assert not data_dir.exists()
    assert "not known beforehand" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda question: " Yes ")
    assert await asyncio.to_thread(pull.run, arguments(server.url)) == 0
    assert (data_dir / "models" / "model.gguf.sha256").read_text().startswith(SUM)


def test_the_command_without_a_name_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert pull.run(arguments()) == 0
    assert "qwen2.5-1.5b    1.1 GB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        arguments("x", "--sha256", "nonsense")


def test_the_bar_shows_share_speed_and_rest_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = pull.Bar()
    bar.show(0, 1000)
    bar.show(500, 1000)  # too soon after the last drawing
    bar.show(1000, 1000)
    bar.end()
    shown = capsys.readouterr().err
    assert "[..............................]   0 %" in shown
    assert " 50 %" not in shown
    assert f"[{'#' * 30}] 100 %" in shown
    pull.Bar().show(2_000_000, 0)
    assert "2.0 MB at" in capsys.readouterr().err
