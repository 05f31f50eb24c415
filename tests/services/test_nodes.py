"""Leases, takeover and what a node finds in its own name, on a real database."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from llmchatbot.config import Duration, StreamSettings
from llmchatbot.database.address import Address
from llmchatbot.database.dedicated import DedicatedConnection
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.ids import new_id
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation, Status
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import nodes
from llmchatbot.repositories.answer_log import PostgresAnswerLog
from llmchatbot.repositories.sending import Situation
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.beginnings import Key, Plan, beginning_of
from llmchatbot.services.nodes import NodeService
from llmchatbot.services.prompts import PromptBuilder
from llmchatbot.streaming import payloads
from llmchatbot.streaming.followers import Followers
from llmchatbot.streaming.store import Batch
from llmchatbot.streaming.tails import Tail
from llmchatbot.streaming.wakeups import SharedWakeUps


class Maker:
    """Takes answers up and does nothing with them."""

    def __init__(self) -> None:
        self.generation_ids: list[UUID] = []
        self.started: list[tuple[Generation, list[str]]] = []
        self.ended: list[tuple[Generation, list[str], Status]] = []

    def makes(self, generation_id: UUID) -> bool:
        return generation_id in self.generation_ids

    def start(self, generation: Generation, stored: list[str]) -> Tail:
        self.started.append((generation, stored))
        self.generation_ids.append(generation.id)
        return Tail(generation.id)

    def end(self, generation: Generation, stored: list[str], status: Status, failure: object) -> Tail:
        self.ended.append((generation, stored, status))
        self.generation_ids.append(generation.id)
        return Tail(generation.id)

    def stop(self, generation_id: UUID) -> bool:
        return True

    async def abandon(self, generation_ids: list[UUID]) -> None:
        self.generation_ids = [known for known in self.generation_ids if known not in generation_ids]


class Stuck(Maker):
    """The end of its jobs never comes."""

    async def abandon(self, generation_ids: list[UUID]) -> None:
        await asyncio.Event().wait()

    def forget(self, generation_ids: list[UUID]) -> None:
        self.generation_ids = [known for known in self.generation_ids if known not in generation_ids]


class Nobody:
    """No followers, no models."""

    def release(self, generation_id: UUID) -> None:
        """Nobody follows."""

    def describe(self) -> list[Any]:
        return []


def make_node(db: Database) -> tuple[NodeService, Maker]:
    node = NodeService(
        database=db,
        gateway=cast("ModelGateway", Nobody()),
        wakeups=SharedWakeUps([]),
        settings=StreamSettings(),
        name="test",
    )
    maker = Maker()
    node.use(cast("AnswerMaker", maker), cast("Followers", Nobody()))
    return node, maker


async def make_generation(db: Database, owner: UUID, *, epoch: int = 1, events: dict[int, str] | None = None) -> UUID:
    user, chat, generation = new_id(), new_id(), new_id()
    await db.execute("INSERT INTO users (id, email, username) VALUES ($1, $2, 'u')", user, f"{user}@x.org")
    await db.execute("INSERT INTO chats (id, user_id, title) VALUES ($1, $2, 't')", chat, user)
    await db.execute(
        "INSERT INTO generations (id, user_id, chat_id, message_id, user_message_id, model, owner_node, epoch) "
        "VALUES ($1, $2, $3, $4, $5, 'm', $6, $7)",
        generation,
        user,
        chat,
        new_id(),
        new_id(),
        owner,
        epoch,
    )
    for seq, payload in (events or {0: '{"type":"start"}'}).items():
        await db.execute("INSERT INTO generation_events VALUES ($1, $2, $3)", generation, seq, payload)
    return generation


async def test_send_whose_commit_was_not_known_to_have_happened_is_made_all_the_same(db: Database) -> None:
    """A database error does not mean "not stored". Nobody would ever have begun that answer."""
    node, maker = make_node(db)
    await node.tick()
    generation = await make_generation(db, node.id)
    await node.tick()
    assert maker.started == [], "a send that has just committed is about to begin it"
    await db.execute("UPDATE generations SET created_at = now() - interval '11 seconds'")
    await node.tick()
    assert [(started.id, started.epoch) for started, _ in maker.started] == [(generation, 2)]
    await node.tick()
    assert len(maker.started) == 1


class Dying(Maker):
    """Every job dies at once by a fault of ours: in hand no more, and the answer has no end."""

    def start(self, generation: Generation, stored: list[str]) -> Tail:
        tail = super().start(generation, stored)
        self.generation_ids.clear()
        return tail

    end = start  # type: ignore[assignment]  # an ending that dies


async def test_answer_whose_job_dies_again_and_again_is_taken_up_after_growing_pauses(
    db: Database,
) -> None:
    """Each try raised the epoch and wrote a trace, each second, for ever."""
    node, _ = make_node(db)
    maker = Dying()
    node.use(cast("AnswerMaker", maker), cast("Followers", Nobody()))
    await node.tick()
    await make_generation(db, node.id)
    await db.execute("UPDATE generations SET created_at = now() - interval '11 seconds'")
    taken: list[int] = []
    for second in range(200):
        before = len(maker.started)
        await node._take_over(second)
        taken += [second] * (len(maker.started) - before)
    assert taken == [0, 1, 3, 7, 15, 31, 63, 123, 183]


async def test_answer_in_hand_is_not_claimed_by_its_own_node(db: Database) -> None:
    node, maker = make_node(db)
    await node.tick()
    maker.generation_ids.append(await make_generation(db, node.id))
    await node.tick()
    assert not maker.started


async def test_all_answers_of_a_dead_node_are_taken_over_in_one_tick(db: Database) -> None:
    """Forty answers of one dead node are as many readers that wait: a handful a second would be seconds more."""
    node, maker = make_node(db)
    await node.tick()
    dead = new_id()
    made = {await make_generation(db, dead) for _ in range(40)}
    await node.tick()
    assert {generation.id for generation, _ in maker.started} == made


TOLD = '{"type":"token","content":"told "}'
THOUGHT = '{"type":"reasoning","content":"hm"}'


@pytest.mark.parametrize(
    ("prefix", "events", "again"),
    [
        ("", [], True),
        ("", [THOUGHT], False),
        ("", [TOLD], False),
        ("told ", [TOLD], True),
        ("told ", [TOLD, '{"type":"notice","code":"x"}'], True),
        ("told ", [TOLD, THOUGHT], False),
        ("told ", [TOLD, TOLD], False),
    ],
)
async def test_what_was_shown_is_never_begun_anew(db: Database, prefix: str, events: list[str], again: bool) -> None:
    """protocol §6: only while nothing was shown; what a person asked to go on from was shown before."""
    node, maker = make_node(db)
    await node.tick()
    generation = await make_generation(db, new_id(), events=dict(enumerate(['{"type":"start"}', *events])))
    await db.execute("UPDATE generations SET prefix = $2 WHERE id = $1", generation, prefix)
    await node.tick()
    assert (len(maker.started), len(maker.ended)) == ((1, 0) if again else (0, 1))


def continued_by_another_model(prefix: str) -> list[str]:
    """The first events of an answer that goes on from `prefix` after its model was replaced."""
    plan = Plan(
        question=None, content=None, parent_id=None, model="m", parameters={}, prefix=prefix, stands_in_for="gone"
    )
    chat = SimpleNamespace(id=new_id(), branch=[], title_source="user", last_sequence=2)
    prompts = SimpleNamespace(choose=lambda *_, prefix: SimpleNamespace(record={}))
    beginning = beginning_of(
        Principal(user_id=new_id(), session_id=new_id()),
        cast("Situation", chat),
        plan,
        Key(),
        prompts=cast("PromptBuilder", prompts),
        node_id=new_id(),
    )
    return list(beginning.new.events)


@pytest.mark.parametrize(("more", "again"), [([], True), ([THOUGHT], False), ([TOLD], False)])
async def test_continue_by_a_model_in_place_of_another_is_run_again_while_nothing_new_was_shown(
    db: Database, more: list[str], again: bool
) -> None:
    """The notice that tells of the other model stands before the old text, which was then taken for new."""
    node, maker = make_node(db)
    await node.tick()
    begun = continued_by_another_model("told ")
    assert sum(map(payloads.shows_something, begun)) == 1
    generation = await make_generation(db, new_id(), events=dict(enumerate([*begun, *more])))
    await db.execute("UPDATE generations SET prefix = 'told ' WHERE id = $1", generation)
    await node.tick()
    assert (len(maker.started), len(maker.ended)) == ((1, 0) if again else (0, 1))


async def test_fenced_node_claims_nothing(db: Database) -> None:
    node, maker = make_node(db)
    await node.tick()
    await make_generation(db, node.id)
    await nodes.fence(db, node.id)
    await node.tick()
    assert not maker.started


async def test_answer_that_ends_whoever_takes_it_up_is_not_paid_for_for_ever(db: Database) -> None:
    node, maker = make_node(db)
    await node.tick()
    await make_generation(db, new_id(), epoch=40)
    await node.tick()
    assert [status for _, _, status in maker.ended] == [Status.INTERRUPTED]


async def test_events_behind_a_gap_are_dropped_before_others_get_their_numbers(db: Database) -> None:
    """A killed database server forgets rounds that it had acknowledged, and may keep later ones of other sessions."""
    node, maker = make_node(db)
    await node.tick()
    kept = ['{"type":"start"}', payloads.token("a")]
    generation = await make_generation(
        db, new_id(), events={0: kept[0], 1: kept[1], 3: payloads.token("c"), 4: payloads.token("d")}
    )
    await node.tick()
    assert [(ended.id, stored) for ended, stored, _ in maker.ended] == [(generation, kept)]
    left = await db.fetchval("SELECT array_agg(seq ORDER BY seq) FROM generation_events")
    assert left == [0, 1]


async def test_registering_twice_is_harmless(db: Database) -> None:
    """The answer to the first commit may have been lost; a unique violation would have kept the node out for ever."""
    node, _ = make_node(db)
    await node.register()
    await node.register()
    assert await db.fetchval("SELECT count(*) FROM nodes") == 1


async def test_nobody_is_fenced_right_after_an_outage(db: Database) -> None:
    """All leases run out while the database is away; whoever is back first must not take the others' answers."""
    node, _ = make_node(db)
    await node.tick()
    other = new_id()
    await nodes.register(db, other, "other", -1.0)
    node._note_outage()
    await node.tick()
    assert not await db.fetchval("SELECT fenced_at IS NOT NULL FROM nodes WHERE id = $1", other)
    node._lenient_until = 0.0
    await node.tick()
    assert await db.fetchval("SELECT fenced_at IS NOT NULL FROM nodes WHERE id = $1", other)


LIVING = "SELECT array_agg(id ORDER BY id) FROM nodes WHERE fenced_at IS NULL"


@pytest.mark.parametrize("seconds", [8, 15])
@pytest.mark.parametrize("due", [False, True])
async def test_jump_of_the_databases_clock_fences_nobody(db: Database, seconds: int, due: bool) -> None:
    """The clock was set forward, or the machine slept: the only living node fenced itself, and lost its answers."""
    (first, maker), (second, _) = make_node(db), make_node(db)
    await second.tick()
    # The second one has renewed its lease a while ago: a short jump makes its lease run out alone.
    await db.execute("UPDATE nodes SET lease_until = lease_until - interval '2.5 seconds'")
    await first.tick()
    both, ids = sorted([first.id, second.id]), (first.id, second.id)
    maker.generation_ids.append(await make_generation(db, first.id))
    await db.execute("UPDATE nodes SET lease_until = lease_until - make_interval(secs => $1)", seconds)
    if due:
        first._renewed -= StreamSettings().lease_renewal
    await first.tick()
    assert await db.fetchval(LIVING) == both
    assert await db.fetchval("SELECT lease_until > now() + interval '9 s' FROM nodes WHERE id = $1", first.id)
    await second.tick()
    assert await db.fetchval("SELECT bool_and(lease_until > now() + interval '9 s') FROM nodes")
    first._lenient_until = 0.0
    await first.tick()
    assert await db.fetchval(LIVING) == both
    assert (first.id, second.id) == ids
    assert maker.generation_ids, "the answer goes on"


async def test_node_whose_lease_has_run_out_never_fences_itself(db: Database) -> None:
    node, _ = make_node(db)
    await node.tick()
    await db.execute("UPDATE nodes SET lease_until = now() - interval '1 second'")
    assert not await nodes.fence_expired(db, node.id, 0.0)
    assert await nodes.fence_expired(db, node.id, -5.0)
    assert await db.fetchval(LIVING) == [node.id]


async def test_node_that_slept_through_its_lease_and_was_fenced_begins_again_under_another_id(db: Database) -> None:
    (sleeper, maker), (other, _) = make_node(db), make_node(db)
    await sleeper.tick()
    before, generation = sleeper.id, await make_generation(db, sleeper.id)
    maker.generation_ids.append(generation)
    await db.execute("UPDATE nodes SET lease_until = lease_until - interval '15 seconds'")
    await other.tick()
    assert await db.fetchval(LIVING) == [other.id], "its lease has run out while the other's clock stood right"
    sleeper._renewed -= 15
    await sleeper.tick()
    assert sleeper.id != before
    assert maker.generation_ids == []
    assert await db.fetchval(LIVING) == sorted([sleeper.id, other.id])


@pytest.mark.parametrize("known", [True, False])
async def test_job_that_cannot_end_keeps_its_node_neither_unregistered_nor_from_its_tick(
    db: Database, known: bool
) -> None:
    """The node waited for it before it registered again: for ever, without a lease, and it took nothing over."""
    node, maker = make_node(db)[0], Stuck()
    node.use(cast("AnswerMaker", maker), cast("Followers", Nobody()))
    node._settings = StreamSettings(lease=Duration(0.4))
    await node.tick()
    before = node.id
    generation = await make_generation(db, before)
    if known:
        await nodes.fence(db, before)
        node._renewed -= 15
    else:
        # The job is found in hand when its answer is claimed.
        await db.execute("UPDATE generations SET owner_node = NULL")
    maker.generation_ids.append(generation)
    async with asyncio.timeout(5):
        await node.tick()
    assert (node.id != before) is known
    assert await db.fetchval(LIVING) == [node.id]
    assert [(started.id, started.epoch) for started, _ in maker.started] == [(generation, 2)]


async def test_connection_lost_while_idle_is_told_to_its_owner(db: Database) -> None:
    """The writer stores its last rounds again after a crash of the server, also of one between two rounds."""
    dedicated = DedicatedConnection(db.address, application_name="lost while idle", statement_timeout=5)
    try:
        pid = await dedicated.fetchval("SELECT pg_backend_pid()")
        await db.execute("SELECT pg_terminate_backend($1, 2000)", pid)
        with pytest.raises(DatabaseUnavailable):
            await _until_noticed(dedicated)
        assert await dedicated.fetchval("SELECT 1") == 1
    finally:
        await dedicated.close()


async def _until_noticed(dedicated: DedicatedConnection) -> None:
    assert isinstance(dedicated._connection, asyncpg.Connection)
    await dedicated.fetchval("SELECT 1")


async def test_server_that_says_nothing_keeps_a_lease_waiting_no_longer_than_a_statement_may_take(
    database: Address,
) -> None:
    """A server that vanished without a word: TCP alone would wait a quarter of an hour, and the writer with it."""
    connection = DedicatedConnection(
        database, application_name="test", statement_timeout=0.5, session={"statement_timeout": "0"}
    )
    try:
        async with asyncio.timeout(3):
            with pytest.raises(DatabaseUnavailable):
                await connection.fetchval("SELECT pg_sleep(60)")
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


async def test_statement_that_must_follow_another_refuses_a_connection_that_somebody_else_opened_again(
    db: Database,
) -> None:
    """Found by the simulation: the loss was told to whoever came first, and that was not the writer."""
    dedicated = DedicatedConnection(db.address, application_name="opened again", statement_timeout=5)
    try:
        _, number = await dedicated.execute_on(0, "SELECT 1")
        assert await dedicated.execute_on(number, "SELECT 1") == ("SELECT 1", number)
        await db.execute("SELECT pg_terminate_backend($1, 2000)", await dedicated.fetchval("SELECT pg_backend_pid()"))
        with pytest.raises(DatabaseUnavailable):
            await dedicated.execute("SELECT 1")
        await dedicated.execute("SELECT 1")
        with pytest.raises(DatabaseUnavailable):
            await dedicated.execute_on(number, "SELECT 1")
        assert (await dedicated.execute_on(0, "SELECT 1"))[1] == number + 1
    finally:
        await dedicated.close()


async def test_round_for_an_answer_of_another_owner_is_refused(db: Database) -> None:
    """Found by the simulation: a fenced process registers again, and must not write old answers under its new id."""
    node, _ = make_node(db)
    await node.tick()
    before, log = node.id, PostgresAnswerLog(rounds=db, endings=db)
    generation = await make_generation(db, before)
    batch = Batch(generation, 1, 1, [payloads.token("a")])
    await nodes.fence(db, before)
    await node._begin_again()
    assert node.id != before
    assert await log.append(node.id, [batch]) == 0
    assert await log.stale(node.id, {generation: 1}) == {generation}
