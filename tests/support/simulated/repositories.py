"""The repositories that the core calls, on the model of the database: same names, same promises, no SQL."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from simulated.database import Handle, NodeRow

from llmchatbot.clock import ManualClock
from llmchatbot.models.generations import Generation, Status
from llmchatbot.repositories.generations import Ended as EndedRow

_SOME_TIME = ManualClock().now()


class Nodes:
    @staticmethod
    async def register(handle: Handle, node_id: UUID, name: str, lease_seconds: float) -> None:
        database = handle.database

        def statement() -> None:
            database.nodes.setdefault(node_id, NodeRow(database.now() + lease_seconds))
            database.commit(lambda: None)

        await handle.run(statement)

    @staticmethod
    async def renew(handle: Handle, node_id: UUID, lease_seconds: float) -> float | None:
        database = handle.database

        def statement() -> float | None:
            if database.is_fenced(node_id):
                return None
            left = database.nodes[node_id].lease_until - database.now()
            database.nodes[node_id].lease_until = database.now() + lease_seconds
            database.commit(lambda: None)
            return left

        return await handle.run(statement)

    @staticmethod
    async def fence_expired(handle: Handle, node_id: UUID, least_left: float) -> bool:
        database = handle.database

        def statement() -> bool:
            if node_id not in database.nodes or database.nodes[node_id].lease_until < database.now() + least_left:
                return False
            # PostgreSQL waits for the lock; here the next tick finds it free.
            expired = [
                row
                for other, row in database.nodes.items()
                if other != node_id
                and not row.fenced
                and row.lease_until < database.now()
                and not database.locks[other]
            ]
            for row in expired:
                row.fenced = True
            database.commit(lambda: None)
            return True

        return await handle.run(statement)

    @staticmethod
    async def fence(handle: Handle, node_id: UUID) -> None:
        def statement() -> None:
            if node_id in handle.database.nodes:
                handle.database.nodes[node_id].fenced = True

        await handle.run(statement)

    @staticmethod
    async def others_live(handle: Handle, node_id: UUID) -> bool:
        rows = handle.database.nodes
        return await handle.run(lambda: any(not row.fenced for other, row in rows.items() if other != node_id))


class Generations:
    Ended = EndedRow

    @staticmethod
    async def claim_orphans(
        handle: Handle, node_id: UUID, held: list[UUID], *, own_after: float, limit: int
    ) -> list[Generation]:
        database = handle.database

        def is_orphan(identifier: UUID) -> bool:
            row = database.generations[identifier]
            owner = row.generation.owner_node
            if owner == node_id:
                old_enough = row.created < database.now() - own_after
                return database.rules.own_orphans and identifier not in held and old_enough
            return owner is None or database.is_fenced(owner)

        def statement() -> list[Generation]:
            if database.is_fenced(node_id):
                return []
            orphans = [known for known, row in database.generations.items() if row.active and is_orphan(known)]
            database.note_claims(orphans[:limit])
            claimed = [
                database.change(known, epoch=database.generations[known].generation.epoch + 1, owner_node=node_id)
                for known in orphans[:limit]
            ]
            database.commit(lambda: None)
            return claimed

        return await handle.run(statement)

    @staticmethod
    async def stop_requests(handle: Handle, node_id: UUID) -> list[UUID]:
        rows = handle.database.generations.items()
        return await handle.run(
            lambda: [
                known
                for known, row in rows
                if row.active and row.generation.owner_node == node_id and row.generation.stop_requested_at is not None
            ]
        )

    @staticmethod
    async def get_owned(handle: Handle, user_id: UUID, generation_id: UUID) -> Generation:
        return await handle.run(lambda: handle.database.get_owned(generation_id))

    @staticmethod
    async def request_stop(handle: Handle, user_id: UUID, generation_id: UUID) -> None:
        def statement() -> None:
            if handle.database.generations[generation_id].active:
                handle.database.change(generation_id, stop_requested_at=_SOME_TIME)
                handle.database.commit(lambda: None)

        await handle.run(statement)

    @staticmethod
    async def begin(handle: Handle, generation_id: UUID, epoch: int, prompt: dict[str, Any]) -> bool:
        def statement() -> bool:
            row = handle.database.generations[generation_id]
            if not row.active or row.generation.epoch != epoch:
                return False
            handle.database.change(generation_id, status=Status.RUNNING)
            return True

        return await handle.run(statement, dedicated=True)

    @staticmethod
    async def find_ended(handle: Handle, user_id: UUID, generation_id: UUID) -> EndedRow | None:
        def statement() -> EndedRow | None:
            row = handle.database.generations[generation_id]
            if row.ending is None:
                return None
            return EndedRow(
                status=row.ending.status,
                last_seq=row.ending.seq,
                content=row.ending.content,
                usage=row.ending.usage,
                model=row.ending.model,
            )

        return await handle.run(statement)


class AnswerLog:
    @staticmethod
    async def read(handle: Handle, generation_id: UUID, first: int, limit: int) -> list[tuple[int, str]]:
        return await handle.run(lambda: handle.database.read(generation_id, first, limit))

    @staticmethod
    async def cut_off(handle: Handle, generation_id: UUID, epoch: int, first: int) -> None:
        database = handle.database

        def statement() -> None:
            if database.rules.cut_off and database.generations[generation_id].generation.epoch == epoch:
                log = database.events[generation_id]
                for seq in [seq for seq in log if seq >= first]:
                    del log[seq]
                database.commit(lambda: None)

        await handle.run(statement)
