"""Sending, by the service itself: what happens when its process stands still at the wrong moment."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from llmchatbot import config
from llmchatbot.ids import new_id
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import sending
from llmchatbot.services.messages import Send
from llmchatbot.wiring import open_backend, with_secret

if TYPE_CHECKING:
    from llmchatbot.database.address import Address
    from llmchatbot.database.pool import Database


async def test_process_that_stood_still_after_its_commit_asks_no_model_for_what_others_have_taken_over(
    database: Address, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writes would be refused all the same; the second call to the model would cost for nothing."""
    settings = config.load({"LLM_SCRIPTED": "true", "LEASE": "0.4s", "LEASE_RENEWAL": "0.1s"})
    user_id, chat_id, taken = new_id(), new_id(), list[UUID]()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, 'a@x.org', 'u')", user_id)
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat_id, user_id)
    # Alive, or the process itself would rightly take the answer over from nobody, and ask.
    other = new_id()
    await db.execute("INSERT INTO nodes (id, name, lease_until) VALUES ($1, 'n', now() + interval '1 hour')", other)
    write = sending.write

    async def write_and_stand_still(executor: Any, seen: Any, new: Any, **others: Any) -> Any:
        written = await write(executor, seen, new, **others)
        taken.append(new.generation.id)
        await db.execute("UPDATE generations SET epoch = 2, owner_node = $2 WHERE id = $1", taken[0], other)
        await asyncio.sleep(0.2)
        return written

    monkeypatch.setattr(sending, "write", write_and_stand_still)
    asked: list[str] = []
    async with AsyncExitStack() as stack:
        backend = await open_backend(with_secret(settings, "s" * 32), database, stack)
        monkeypatch.setattr(backend.gateway, "stream", lambda request, sink: asked.append(request.model))
        request = Send(content="[[rate=0 tokens=3]] hello", model="scripted")
        await backend.message_service.send(Principal(user_id=user_id, session_id=new_id()), chat_id, request)
        async with asyncio.timeout(5):
            while backend.maker.makes(taken[0]):  # noqa: ASYNC110 # the end of a job is nobody's event
                await asyncio.sleep(0.01)
    assert not asked
