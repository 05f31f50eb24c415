"""All SQL on a person's chats. Every statement names the owner: what is somebody else's is not found."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from asyncpg import Record

from llmchatbot.errors import NotFound
from llmchatbot.models.chats import NO_PARAMETERS, Chat, ChatChanges, ChatKey, ChatParameters, OwnedChat
from llmchatbot.repositories.executor import Executor

# In the order of the fields of Chat. As text, because nearly all chats have no parameters: nothing is parsed then.
_COLUMNS = (
    "id, title, model_used, created_at, updated_at, archived_at IS NOT NULL AS is_archived, message_count, "
    "parameters::text AS parameters"
)
_LIST = "SELECT {columns} FROM chats WHERE user_id = $1 {archived} {after} ORDER BY updated_at DESC, id DESC LIMIT $2"
# Four statements instead of one with conditions: each has an index whose order is the order of the list.
_LISTS = {
    (include_archived, continued): _LIST.format(
        columns=_COLUMNS,
        archived="" if include_archived else "AND archived_at IS NULL",
        after="AND (updated_at, id) < ($3, $4)" if continued else "",
    )
    for include_archived in (False, True)
    for continued in (False, True)
}
_parameters = msgspec.json.Decoder(ChatParameters).decode


def _chat(record: Record) -> Chat:
    parameters: str = record[7]
    values = (*record[:7], NO_PARAMETERS if parameters == "{}" else _parameters(parameters))
    return Chat(*values)


def _owned(record: Record) -> OwnedChat:
    return OwnedChat(_chat(record), record["version"])


async def list_page(
    executor: Executor, user_id: UUID, *, include_archived: bool, after: ChatKey | None, limit: int
) -> list[Chat]:
    """The newest first, from behind `after` on."""
    statement = _LISTS[include_archived, after is not None]
    return [_chat(record) for record in await executor.fetch(statement, user_id, limit, *(after or ()))]


async def get_owned(executor: Executor, user_id: UUID, chat_id: UUID) -> OwnedChat:
    """Raises NotFound."""
    record = await executor.fetchrow(
        f"SELECT {_COLUMNS}, version FROM chats WHERE id = $1 AND user_id = $2",  # a constant
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return _owned(record)


async def lock_owned(executor: Executor, user_id: UUID, chat_id: UUID) -> OwnedChat:
    """As `get_owned`, and nobody else changes the chat until the transaction ends. Raises NotFound."""
    record = await executor.fetchrow(
        f"SELECT {_COLUMNS}, version FROM chats WHERE id = $1 AND user_id = $2 FOR UPDATE",  # a constant
        chat_id,
        user_id,
    )
    if record is None:
        raise NotFound
    return _owned(record)


async def insert(
    executor: Executor,
    *,
    chat_id: UUID,
    user_id: UUID,
    title: str,
    title_source: str,
    model_used: str,
    parameters: ChatParameters,
) -> OwnedChat:
    record = await executor.fetchrow(
        "INSERT INTO chats (id, user_id, title, title_source, model_used, parameters) VALUES ($1, $2, $3, $4, $5, "
        f"$6::text::jsonb) RETURNING {_COLUMNS}, version",
        chat_id,
        user_id,
        title,
        title_source,
        model_used,
        _json(parameters),
    )
    assert record is not None, "INSERT … RETURNING gives its row"  # noqa: S101  # for the type checker
    return _owned(record)


async def update(executor: Executor, user_id: UUID, chat_id: UUID, changes: ChatChanges) -> OwnedChat:
    """A title given by a person is never made anew by the model. Raises NotFound."""
    record = await executor.fetchrow(
        "UPDATE chats SET title = coalesce($3, title), "
        "title_source = CASE WHEN $3::text IS NULL THEN title_source ELSE 'user' END, "
        "model_used = coalesce($4, model_used), parameters = coalesce($5::text::jsonb, parameters), "
        "updated_at = now(), version = version + 1 "
        f"WHERE id = $1 AND user_id = $2 RETURNING {_COLUMNS}, version",
        chat_id,
        user_id,
        changes.title,
        changes.model_used,
        None if changes.parameters is None else _json(changes.parameters),
    )
    if record is None:
        raise NotFound
    return _owned(record)


async def set_archived(executor: Executor, user_id: UUID, chat_ids: Sequence[UUID], archived: bool) -> list[OwnedChat]:
    """Those that were changed by this: others are somebody else's, missing, or as wanted already."""
    records = await executor.fetch(
        "UPDATE chats SET archived_at = CASE WHEN $3 THEN now() END, version = version + 1 "
        "WHERE id = ANY($1::uuid[]) AND user_id = $2 AND (archived_at IS NOT NULL) <> $3 "
        f"RETURNING {_COLUMNS}, version",
        chat_ids,
        user_id,
        archived,
    )
    return [_owned(record) for record in records]


async def delete(executor: Executor, user_id: UUID, chat_ids: Sequence[UUID]) -> list[UUID]:
    """For good, with messages and generations; those that there were."""
    records = await executor.fetch(
        "DELETE FROM chats WHERE id = ANY($1::uuid[]) AND user_id = $2 RETURNING id", chat_ids, user_id
    )
    return [record["id"] for record in records]


async def lock_all_owned(executor: Executor, user_id: UUID, chat_ids: Sequence[UUID]) -> None:
    """Before their generations, in the order that everybody keeps: the end of an answer locks its chat first."""
    await executor.execute(
        "SELECT FROM chats WHERE id = ANY($1::uuid[]) AND user_id = $2 ORDER BY id FOR UPDATE", chat_ids, user_id
    )


async def active_generations(executor: Executor, user_id: UUID, chat_ids: Sequence[UUID]) -> list[UUID]:
    """Answers in the making."""
    records = await executor.fetch(
        "SELECT id FROM generations WHERE chat_id = ANY($1::uuid[]) AND user_id = $2 "
        "AND status IN ('queued', 'running')",
        chat_ids,
        user_id,
    )
    return [record["id"] for record in records]


async def set_leaf(executor: Executor, user_id: UUID, chat_id: UUID, message_id: UUID) -> None:
    """The branch that is shown and continued from now on ends at `message_id`."""
    await executor.execute("UPDATE chats SET leaf_id = $3 WHERE id = $1 AND user_id = $2", chat_id, user_id, message_id)


def _json(parameters: ChatParameters) -> str:
    return msgspec.json.encode(parameters).decode()


async def has_title_from_text(executor: Executor, chat_id: UUID) -> bool:
    """Whether its title was made from its first question."""
    found: bool | None = await executor.fetchval("SELECT title_source = 'text' FROM chats WHERE id = $1", chat_id)
    return bool(found)


async def set_title_by_model(executor: Executor, chat_id: UUID, title: str) -> bool:
    """False when somebody has named the chat meanwhile."""
    tag = await executor.execute(
        "UPDATE chats SET title = $2, title_source = 'model', version = version + 1 "
        "WHERE id = $1 AND title_source = 'text'",
        chat_id,
        title,
    )
    return tag == "UPDATE 1"
