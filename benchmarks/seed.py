"""Fills a migrated database by COPY: many owners, and the measured one with a share that stays the same.

Deterministic: the same seed gives the same rows, whatever is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

_VOCABULARY = """
answer model question stream database relay window train river summer letter number garden light paper morning
music market method matter machine moment mountain country city kitchen engine signal pattern query index
table column record writer reader token frame socket buffer thread process kernel memory cache
"""
_WORDS = _VOCABULARY.split()
RARE_WORD = "zanzibar"
"""One message in a hundred of the measured person holds it: what a search looks for."""

MEASURED_CHATS = 1_000
LONG_CHAT = 500
"""Messages of the measured person's longest chat."""
SHORT_CHATS = 25
SHORT_CHAT = 20
MEASURED_MESSAGES = LONG_CHAT + SHORT_CHATS * SHORT_CHAT
MESSAGES_PER_CHAT = 20
CHATS_PER_OWNER = 100
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

_CHAT_COLUMNS = ("id", "user_id", "title", "last_sequence", "message_count", "created_at", "updated_at", "leaf_id")
_MESSAGE_COLUMNS = (
    "id",
    "chat_id",
    "user_id",
    "parent_id",
    "sequence_number",
    "role",
    "content",
    "model",
    "tokens",
    "created_at",
)


class Seeded(msgspec.Struct, frozen=True):
    """What is there to ask for."""

    long_chat: UUID


def _id(randomness: random.Random) -> UUID:
    """Of the form of a UUIDv7, at random moments."""
    return UUID(int=randomness.getrandbits(128) & ~(0xF << 76) | (0x7 << 76))


def new_id(seed: int) -> UUID:
    """The one id that belongs to `seed`."""
    return _id(random.Random(seed))


def _text(randomness: random.Random, words: int) -> str:
    return " ".join(randomness.choices(_WORDS, k=words))


async def add_owners(connection: asyncpg.Connection, count: int, *, seed: int = 1) -> list[UUID]:
    """`count` accounts that cannot log in."""
    randomness = random.Random(seed)
    owners = [_id(randomness) for _ in range(count)]
    await connection.copy_records_to_table(
        "users",
        records=[(owner, f"owner-{owner.hex}@example.com", "owner") for owner in owners],
        columns=("id", "email", "username"),
    )
    return owners


async def add_chats(connection: asyncpg.Connection, measured: UUID, total: int) -> None:
    """`total` chats without messages: a thousand of `measured`, a hundred of everybody else."""
    randomness = random.Random(2)
    mine = min(MEASURED_CHATS, total)
    others = await add_owners(connection, -(-(total - mine) // CHATS_PER_OWNER), seed=3)

    def rows() -> Iterator[tuple[Any, ...]]:
        for index in range(total):
            owner = measured if index < mine else others[(index - mine) // CHATS_PER_OWNER]
            created = _BEGIN + timedelta(seconds=randomness.randrange(20_000_000))
            updated = created + timedelta(seconds=randomness.randrange(1_000_000))
            yield _id(randomness), owner, _text(randomness, 4), 0, 0, created, updated, None

    await connection.copy_records_to_table("chats", records=rows(), columns=_CHAT_COLUMNS)
    await connection.execute("VACUUM ANALYZE chats")


class MessageRows:
    """Chats with their messages, in the order of COPY."""

    def __init__(self, seed: int) -> None:
        self._randomness = random.Random(seed)
        self.chats: list[tuple[Any, ...]] = []
        self.messages: list[tuple[Any, ...]] = []

    def add_chat(self, owner: UUID, messages: int, *, rare: bool = False) -> UUID:
        randomness = self._randomness
        chat = _id(randomness)
        created = _BEGIN + timedelta(seconds=randomness.randrange(20_000_000))
        parent = None
        for number in range(1, messages + 1):
            message = _id(randomness)
            content = _text(randomness, 8 if number % 2 else 40)
            if rare and number % 100 == 7:
                content = f"{content} {RARE_WORD}"
            role, model = ("user", "") if number % 2 else ("assistant", "default")
            at = created + timedelta(seconds=30 * number)
            self.messages.append((message, chat, owner, parent, number, role, content, model, len(content) // 4, at))
            parent = message
        updated = created + timedelta(seconds=30 * messages)
        self.chats.append((chat, owner, _text(randomness, 4), messages, messages, created, updated, parent))
        return chat


async def _copy(connection: asyncpg.Connection, rows: MessageRows) -> None:
    await connection.copy_records_to_table("chats", records=rows.chats, columns=_CHAT_COLUMNS)
    await connection.copy_records_to_table("messages", records=rows.messages, columns=_MESSAGE_COLUMNS)
    rows.chats.clear()
    rows.messages.clear()


async def add_measured_messages(connection: asyncpg.Connection, measured: UUID) -> Seeded:
    """The measured person's thousand messages: one long chat and short ones."""
    rows = MessageRows(4)
    long_chat = rows.add_chat(measured, LONG_CHAT, rare=True)
    for _ in range(SHORT_CHATS):
        rows.add_chat(measured, SHORT_CHAT)
    await _copy(connection, rows)
    return Seeded(long_chat)


async def add_foreign_messages(connection: asyncpg.Connection, present: int, total: int) -> None:
    """Messages of other people until the table holds `total`; `present` are there already."""
    if present < total:
        rows = MessageRows(seed=total)
        chats = -(-(total - present) // MESSAGES_PER_CHAT)
        owners = await add_owners(connection, -(-chats // CHATS_PER_OWNER), seed=total + 1)
        for index in range(chats):
            rows.add_chat(owners[index // CHATS_PER_OWNER], MESSAGES_PER_CHAT)
            if len(rows.messages) >= 20_000:
                await _copy(connection, rows)
        await _copy(connection, rows)
    # At every size, or one is planned with statistics and another without.
    await connection.execute("VACUUM ANALYZE messages")
    await connection.execute("VACUUM ANALYZE chats")
