"""I2 in SQL: only the owner of an answer, at its epoch and not fenced, writes to it; and no end over a hole."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest
from rows import make_chat, make_running_answer, make_user

from llmchatbot.database.pool import Database
from llmchatbot.ids import new_id
from llmchatbot.repositories.answer_log import PostgresAnswerLog
from llmchatbot.streaming.store import Batch, Ending, Finish


@pytest.fixture
async def node_id(db: Database) -> UUID:
    node = new_id()
    await db.execute("INSERT INTO nodes (id, name, lease_until) VALUES ($1, 'n', now() + interval '1 hour')", node)
    return node


@pytest.fixture
async def ending(db: Database, node_id: UUID) -> Ending:
    user_id = await make_user(db)
    return await make_running_answer(db, user_id, await make_chat(db, user_id), node_id)


@pytest.fixture
def log(db: Database) -> PostgresAnswerLog:
    return PostgresAnswerLog(rounds=db, endings=db)


def first_event(ending: Ending, *, epoch: int = 1) -> list[Batch]:
    return [Batch(ending.generation_id, epoch, 0, ["{}"])]


async def test_i2_owner_writes(log: PostgresAnswerLog, node_id: UUID, ending: Ending) -> None:
    assert await log.append(node_id, first_event(ending)) == 1


async def test_i2_fenced_node_that_still_owns_its_answer_writes_nothing(
    db: Database, log: PostgresAnswerLog, node_id: UUID, ending: Ending
) -> None:
    await db.execute("UPDATE nodes SET fenced_at = now() WHERE id = $1", node_id)
    assert await log.append(node_id, first_event(ending)) == 0


async def test_i2_owner_of_an_older_epoch_writes_nothing(
    db: Database, log: PostgresAnswerLog, node_id: UUID, ending: Ending
) -> None:
    await db.execute("UPDATE generations SET epoch = 2")
    assert await log.append(node_id, first_event(ending)) == 0
    assert await log.append(node_id, first_event(ending, epoch=2)) == 1


async def test_i2_end_of_an_older_epoch_is_lost_and_accounts_nothing(
    db: Database, log: PostgresAnswerLog, ending: Ending
) -> None:
    await db.execute("UPDATE generations SET epoch = 2")
    assert await log.finish(ending) is Finish.LOST
    assert await db.fetchval("SELECT status FROM generations") == "running"
    assert await db.fetchval("SELECT count(*) FROM usage") == 0


async def test_end_over_a_hole_in_the_log_is_refused_and_changes_nothing(
    db: Database, log: PostgresAnswerLog, ending: Ending
) -> None:
    assert await log.finish(msgspec.structs.replace(ending, seq=3)) is Finish.GAP
    assert await db.fetchval("SELECT status FROM generations") == "running"
    assert await log.finish(ending) is Finish.DONE
