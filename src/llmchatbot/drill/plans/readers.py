"""Readers that leave, and readers that never read."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from llmchatbot.drill.arena import Arena
from llmchatbot.drill.people import Person
from llmchatbot.drill.processes import NodeProcess

_BYTES_EACH = 64 * 1024
# Below what a fast answer fills: the server then has to wait for the reader.
_RECEIVE_BUFFER = 4096
_SEGMENT = 536
_ANSWERS_EACH = 50
_LONG = "rate=8000 tokens=40000"


async def leave(arena: Arena) -> None:
    """Everybody closes the tab after the first token."""
    total = arena.amount(60, 1000, deployment=3)
    arena.expect(total)
    # What is left goes on by itself: many answers are in the making for each of them at once.
    async with arena.people(-(-total // _ANSWERS_EACH) if arena.own else 1) as people:
        jobs = [_leave_once(arena, people[number % len(people)], number) for number in range(total)]
        await arena.together(jobs, at_once=50 if arena.own else 1)
    arena.outcome.count("readers that left", total)


async def _leave_once(arena: Arena, person: Person, number: int) -> None:
    generation_id = await arena.ask(person, f"rate=50 tokens=60 seed={number + 1}", url=arena.rng.choice(arena.urls))
    follower = arena.follower(generation_id)
    await person.read(follower, url=arena.rng.choice(arena.urls), until=lambda reader: bool(reader.text))
    if not arena.own:
        await _until_ended(arena, person, generation_id)
    arena.step()


async def _until_ended(arena: Arena, person: Person, generation_id: str) -> None:
    """By asking, not by reading: nobody reads it any more."""
    for _ in range(600):
        answer = await person.request("GET", f"/api/v1/generations/{generation_id}")
        if answer.status == 200 and answer.body["status"] not in {"queued", "running"}:
            arena.outcome.check(answer.body["status"] == "completed", f"{generation_id}: {answer.body['status']}")
            return
        await asyncio.sleep(0.2)
    arena.outcome.violate(f"{generation_id} did not end although nobody stopped it")


async def slow(arena: Arena) -> None:
    """Some open the stream and take nothing: their memory is bounded, they are closed, the others notice nothing."""
    idlers = arena.amount(200, 200)
    arena.expect(3)
    node = arena.cluster.nodes[0]
    async with arena.people(1) as people:
        alone = await _longest_gap(arena, people[0], node, idlers=0)
        arena.step()
        crowd = await _longest_gap(arena, people[0], node, idlers=idlers)
        arena.step()
        each = await _bytes_each(arena, people[0], node, idlers=idlers)
    arena.outcome.time("slowest gap of a healthy reader, alone", alone)
    arena.outcome.time("slowest gap of a healthy reader, in the crowd", crowd)
    arena.outcome.check(crowd <= alone + 1.0, f"healthy readers waited {crowd:.2f} s, alone {alone:.2f} s")
    arena.outcome.check(each <= _BYTES_EACH, f"{each / 1024:.0f} KiB for each reader that never reads")
    arena.outcome.count("KiB each", round(each / 1024))
    arena.outcome.count("readers that never read", idlers)
    arena.step()


async def _longest_gap(arena: Arena, person: Person, node: NodeProcess, *, idlers: int) -> float:
    """Of three readers of a long answer; beside them `idlers` that take nothing of it, until they are closed."""
    generation_id = await arena.ask(person, f"{_LONG} seed={idlers + 1}", url=node.url)
    sockets = [await _open_and_never_read(person, node, generation_id) for _ in range(idlers)]
    followers = [arena.follower(generation_id) for _ in range(3)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await asyncio.gather(*(person.follow(follower, url=node.url) for follower in followers))
        if idlers:
            await asyncio.sleep(max(began + arena.pace.send_timeout + 5 - loop.time(), 0))
            still = await asyncio.gather(*(_is_open(connection) for connection in sockets))
            arena.outcome.check(not any(still), f"{sum(still)} of {idlers} streams are open although nobody reads them")
    finally:
        for connection in sockets:
            connection.close()
    return max(follower.silence_after(began) for follower in followers)


async def _bytes_each(arena: Arena, person: Person, node: NodeProcess, *, idlers: int) -> float:
    """What the process grows by for each; the answer is complete by then, so that it grows by nothing else."""
    generation_id = await arena.ask(person, f"{_LONG} seed={idlers + 2}", url=node.url)
    await person.follow(arena.follower(generation_id), url=node.url)
    before = node.resident_bytes()
    sockets = [await _open_and_never_read(person, node, generation_id) for _ in range(idlers)]
    try:
        await asyncio.sleep(arena.pace.send_timeout / 2)
        return max(node.resident_bytes() - before, 0) / idlers
    finally:
        for connection in sockets:
            connection.close()


async def _open_and_never_read(person: Person, node: NodeProcess, generation_id: str) -> socket.socket:
    connection = socket.socket()
    # A small window, and small segments: Linux gives the sender a buffer of many segments.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", node.port))
    head = (
        f"GET /api/v1/generations/{generation_id}/stream HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
        f"Authorization: Bearer {person.token}\r\nAccept: text/event-stream\r\n\r\n"
    )
    await loop.sock_sendall(connection, head.encode("ascii"))
    return connection


async def _is_open(connection: socket.socket) -> bool:
    """Whether the server still holds it: what lies in the buffers is taken, then there must be an end."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        try:
            async with asyncio.timeout(5):
                while await loop.sock_recv(connection, 65536):
                    pass
        except TimeoutError:
            return True
    return False
