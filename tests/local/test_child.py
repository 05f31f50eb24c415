"""The supervised child: it comes back after any death, at the same address, and never outlives its parent."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from local_service import KEY, NDJSON, Service, begun, environment, until

from llmchatbot.errors import StartupError
from llmchatbot.llm_service.child import ChildSettings, LocalModelChild, LocalModelThread
from llmchatbot.llm_service.engine import EngineSettings

PARENT = """
import asyncio, pathlib, signal, sys
# A background job of a shell begins with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from llmchatbot.llm_service.child import LocalModelChild, settings_for

async def main():
    url, key = await LocalModelChild(settings_for(pathlib.Path(sys.argv[1]))).start()
    print(url, key, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def settings(model: Path, *, check_interval: float = 5.0) -> ChildSettings:
    return ChildSettings(
        model=model, engine=EngineSettings(threads=1), check_interval=check_interval, check_timeout=0.5, drain=2.0
    )


@pytest.fixture
async def child(models: Path) -> AsyncIterator[LocalModelChild]:
    child = LocalModelChild(settings(models / "endless.gguf", check_interval=0.2))
    yield child
    await child.stop()


async def ready(child: LocalModelChild, restarts: int) -> int:
    return int(child.ready and child.restarts >= restarts)


async def processes_with(model: Path) -> list[int]:
    """Ids of the services that serve this model, found as anybody would find them: in the list of processes."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended in the meantime
            if command[1:3] == [b"-m", b"llmchatbot.llm_service"] and os.fsencode(model) in command:
                found.append(int(folder.name))
    return found


async def count(model: Path) -> int:
    return len(await processes_with(model))


async def test_it_serves_at_the_address_it_names_and_only_with_its_key(
    child: LocalModelChild, http: aiohttp.ClientSession
) -> None:
    url, key = await child.start()
    assert (await Service(url, key).lines(http, max_tokens=3))[-1]["content"] == " aa ab ac"
    async with http.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}) as response:
        assert response.status == 401


async def test_killed_it_comes_back_at_the_same_address_and_whoever_came_meanwhile_is_served(
    child: LocalModelChild, models: Path, http: aiohttp.ClientSession
) -> None:
    service = Service(*await child.start())
    (victim,) = await processes_with(models / "endless.gguf")
    async with begun(service, http, NDJSON, {"prompt": "Begin."}) as broken:
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await broken.read()
    meanwhile = await service.lines(http, max_tokens=3)
    assert meanwhile[-1]["content"] == " aa ab ac"
    await until(1, functools.partial(ready, child, 1))
    assert await processes_with(models / "endless.gguf") != [victim]


async def test_one_that_hangs_is_replaced(child: LocalModelChild, models: Path, http: aiohttp.ClientSession) -> None:
    service = Service(*await child.start())
    (victim,) = await processes_with(models / "endless.gguf")
    os.kill(victim, signal.SIGSTOP)
    await until(1, functools.partial(ready, child, 1))
    assert (await service.lines(http, max_tokens=1))[-1]["content"] == " aa"


async def test_stopped_it_is_gone_at_once_even_in_the_middle_of_an_answer(
    child: LocalModelChild, models: Path, http: aiohttp.ClientSession
) -> None:
    service = Service(*await child.start())
    async with begun(service, http, NDJSON, {"prompt": "Begin."}):
        pass
    began = time.monotonic()
    await child.stop()
    assert time.monotonic() - began < 2
    assert await processes_with(models / "endless.gguf") == []
    with pytest.raises(aiohttp.ClientConnectionError):
        await service.lines(http)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_its_parent_however_that_ends(models: Path, tmp_path: Path, end: signal.Signals) -> None:
    model = tmp_path / "mine.gguf"
    model.symlink_to(models / "endless.gguf")
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(model)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert parent.stdout is not None
        assert (await asyncio.wait_for(parent.stdout.readline(), 30)).startswith(b"http://127.0.0.1:")
        assert await count(model) == 1
        parent.send_signal(end)
        assert await until(0, functools.partial(count, model)) < 3
    finally:
        if parent.returncode is None:
            parent.kill()
        await parent.wait()


async def test_a_model_that_cannot_be_loaded_is_the_parents_own_message(tmp_path: Path, models: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((models / "reciter.gguf").read_bytes()[:1000])
    with pytest.raises(StartupError, match=r"broken.gguf did not start.\n.*header cannot be read"):
        await LocalModelChild(settings(broken)).start()
    with pytest.raises(StartupError, match="There is no model file"):
        await LocalModelChild(settings(tmp_path / "none.gguf")).start()


def test_a_parent_without_a_loop_gets_the_same_from_a_thread(models: Path, tmp_path: Path) -> None:
    thread = LocalModelThread(settings(models / "reciter.gguf"))
    url, key = thread.start_blocking()

    async def ask() -> str:
        async with aiohttp.ClientSession() as http:
            return str((await Service(url, key).lines(http, max_tokens=2))[-1]["content"])

    assert asyncio.run(ask()) == " aa ab"
    thread.stop_blocking()
    thread.stop_blocking()
    with pytest.raises(StartupError):
        LocalModelThread(settings(tmp_path / "none.gguf")).start_blocking()
