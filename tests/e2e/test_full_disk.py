"""A disk that is full: what needs no room goes on, the rest is refused for a while, and nothing promised is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters
from typing import Any

import pytest
from nodes import Node, Person, text_of

_MEGABYTES = 260


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which only root may make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={_MEGABYTES}m,mode=1777"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(64 * 1024))


async def send_until(person: Person, chats: list[str], *, refused: bool) -> dict[str, Any]:
    """A long question in one chat after the other, until one is refused, or until one is not. What it was told."""
    letters = random.Random(7)
    for chat in chats:
        question = "[[rate=0 tokens=3]]" + "".join(letters.choices(ascii_letters, k=20_000))
        status, body = await person.send(chat, question)
        assert status in {201, 503}, body
        if (status == 503) is refused:
            answer: dict[str, Any] = body
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("the disk is not as full, or not as free, as it should be")


async def test_full_disk_is_503_for_writes_and_nothing_for_reads(small_disk: Path, tmp_path: Path) -> None:
    node = Node(tmp_path, {"DATA_DIR": str(small_disk / "data"), "MAX_ACTIVE_GENERATIONS": "1000"})
    try:
        await node.start()
        async with Person(node) as person:
            # Made before there is no room for them.
            chats = [await person.chat() for _ in range(99)]
            chat = await person.chat()
            generation = await person.start(chat, "[[rate=50 tokens=400]]")
            reading = asyncio.create_task(person.events(generation))
            await asyncio.sleep(0.5)
            fill(small_disk / "filler")

            refusal = await send_until(person, chats[:60], refused=True)
            assert refusal["code"] == "database_unavailable"
            status, listed = await person.request("GET", "/api/v1/chats?limit=100")
            assert (status, len(listed)) == (200, 100)
            assert (await person.request("GET", "/health"))[0] == 200
            assert node.process is not None
            assert node.process.poll() is None

            (small_disk / "filler").unlink()
            async with asyncio.timeout(10):
                await send_until(person, chats[60:], refused=False)
            # What was under way meanwhile waited in memory, and is whole.
            events = await asyncio.wait_for(reading, 30)
            assert (events[-1]["type"], events[-1]["status"]) == ("complete", "completed")
            stored = (await person.messages(chat))[-1]
            assert text_of(events) == events[-1]["content"] == stored["content"]
            assert stored["tokens"] == 400
    finally:
        node.end()
