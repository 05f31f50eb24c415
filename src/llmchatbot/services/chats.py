"""Chats: made, listed, changed, archived, restored and deleted by their owner, and their messages read.

Each change and its entry in the user feed are one transaction; the other devices are woken after its commit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.database.pool import Connection, Database, retrying
from llmchatbot.errors import NotFound, PreconditionFailed
from llmchatbot.ids import new_id
from llmchatbot.models.chats import (
    DEFAULT_TITLE,
    NO_PARAMETERS,
    Chat,
    ChatChanges,
    ChatKey,
    ChatParameters,
    OwnedChat,
    Page,
)
from llmchatbot.models.messages import Message
from llmchatbot.repositories import chats, messages_read, usage, user_events
from llmchatbot.streaming import payloads, wakeups
from llmchatbot.streaming.wakeups import WakeUps

# Versions that a client takes for the present one; None: it does not mind.
Expected = Collection[int] | None


class ChatService:
    """Whatever belongs to somebody else is NotFound, as if it were not there."""

    def __init__(self, *, database: Database, wakeups: WakeUps) -> None:
        self._database = database
        self._wakeups = wakeups

    async def list_page(
        self, user_id: UUID, *, include_archived: bool, after: ChatKey | None, limit: int
    ) -> Page[Chat]:
        """The newest `updated_at` first. A chat that changes meanwhile moves to the front; no other comes twice."""
        found = await chats.list_page(
            self._database, user_id, include_archived=include_archived, after=after, limit=limit + 1
        )
        return Page.of(found, limit)

    async def create(
        self, user_id: UUID, *, title: str = "", model_used: str = "", parameters: ChatParameters = NO_PARAMETERS
    ) -> OwnedChat:
        # Only a chat that nobody has named gets its title from its first message.
        named = bool(title) and title != DEFAULT_TITLE
        async with self._database.transaction() as transaction:
            created = await chats.insert(
                transaction,
                chat_id=new_id(),
                user_id=user_id,
                title=title or DEFAULT_TITLE,
                title_source="user" if named else "default",
                model_used=model_used,
                parameters=parameters,
            )
            await user_events.append(transaction, user_id, _event("chat.created", created.chat))
        await self._tell(user_id)
        return created

    async def get(self, user_id: UUID, chat_id: UUID) -> OwnedChat:
        """Raises NotFound."""
        return await chats.get_owned(self._database, user_id, chat_id)

    async def update(self, user_id: UUID, chat_id: UUID, changes: ChatChanges, expected: Expected = None) -> OwnedChat:
        """Raises NotFound, PreconditionFailed."""
        async with self._database.transaction() as transaction:
            locked = await chats.lock_owned(transaction, user_id, chat_id)
            require_version(locked, expected)
            if changes == ChatChanges():
                return locked
            updated = await chats.update(transaction, user_id, chat_id, changes)
            await user_events.append(transaction, user_id, _event("chat.updated", updated.chat))
        await self._tell(user_id)
        return updated

    async def archive(self, user_id: UUID, chat_id: UUID, expected: Expected = None) -> None:
        """Twice is once. Raises NotFound, PreconditionFailed."""
        await self._set_archived(user_id, chat_id, True, expected)

    async def restore(self, user_id: UUID, chat_id: UUID, expected: Expected = None) -> OwnedChat:
        """Out of the archive; twice is once. Raises NotFound, PreconditionFailed."""
        return await self._set_archived(user_id, chat_id, False, expected)

    async def restore_many(self, user_id: UUID, chat_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Those that were in the archive; others are passed over."""
        async with self._database.transaction() as transaction:
            restored = await chats.set_archived(transaction, user_id, chat_ids, False)
            events = [_event("chat.updated", owned.chat) for owned in restored]
            await user_events.append(transaction, user_id, *events)
        if restored:
            await self._tell(user_id)
        return [owned.chat.id for owned in restored]

    async def delete(self, user_id: UUID, chat_id: UUID, expected: Expected = None) -> None:
        """For good, with all messages; an answer in the making is stopped. Raises NotFound, PreconditionFailed."""
        if not await self._delete(user_id, [chat_id], expected):
            raise NotFound

    async def delete_many(self, user_id: UUID, chat_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Those that there were; others are passed over."""
        return await self._delete(user_id, chat_ids, None)

    async def list_messages(
        self,
        user_id: UUID,
        chat_id: UUID,
        *,
        whole_tree: bool = False,
        newest_first: bool = False,
        after: int | None = None,
        limit: int | None = None,
    ) -> Page[Message]:
        """Of the current branch, or of all branches, from behind the sequence number `after` on. Raises NotFound."""
        found = await messages_read.list_page(
            self._database,
            user_id,
            chat_id,
            whole_tree=whole_tree,
            newest_first=newest_first,
            after=after,
            limit=None if limit is None else limit + 1,
        )
        if not found:
            await chats.get_owned(self._database, user_id, chat_id)
        page = Page(found, False) if limit is None else Page.of(found, limit)
        return Page(await self._with_text_so_far(page.items), page.more)

    async def set_branch(self, user_id: UUID, chat_id: UUID, message_id: UUID) -> OwnedChat:
        """Show and continue the branch that `message_id` is on, to its newest end. Raises NotFound."""
        async with self._database.transaction() as transaction:
            owned = await chats.lock_owned(transaction, user_id, chat_id)
            links = await messages_read.links_from(transaction, user_id, chat_id, message_id)
            if not links:
                raise NotFound("There is no such message in this chat.")
            leaf_id = _newest_descendant(links)
            await chats.set_leaf(transaction, user_id, chat_id, leaf_id)
            event = {**_event("chat.updated", owned.chat), "leaf_id": str(leaf_id)}
            await user_events.append(transaction, user_id, event)
        await self._tell(user_id)
        return owned

    async def _set_archived(self, user_id: UUID, chat_id: UUID, archived: bool, expected: Expected) -> OwnedChat:
        async with self._database.transaction() as transaction:
            locked = await chats.lock_owned(transaction, user_id, chat_id)
            require_version(locked, expected)
            changed = await chats.set_archived(transaction, user_id, [chat_id], archived)
            if not changed:
                return locked
            kind = "chat.archived" if archived else "chat.updated"
            await user_events.append(transaction, user_id, _event(kind, changed[0].chat))
        await self._tell(user_id)
        return changed[0]

    async def _delete(self, user_id: UUID, chat_ids: Sequence[UUID], expected: Expected) -> Sequence[UUID]:
        async def write() -> tuple[Sequence[UUID], Sequence[UUID]]:
            async with self._database.transaction() as transaction:
                return await self._delete_in(transaction, user_id, chat_ids, expected)

        if expected is not None:
            require_version(await self.get(user_id, chat_ids[0]), expected)
        # Before the rows go: an end that comes in time is still accounted; a late one finds no generation.
        for generation_id in await chats.active_generations(self._database, user_id, chat_ids):
            await self._wakeups.publish(wakeups.STOP, str(generation_id))
        deleted, orphaned = await retrying(write)
        for generation_id in orphaned:
            # Their logs get no end: whoever follows one elsewhere would wait for it for ever.
            await self._wakeups.publish(wakeups.ENDED, str(generation_id))
        if deleted:
            await self._tell(user_id)
        return deleted

    async def _delete_in(
        self, transaction: Connection, user_id: UUID, chat_ids: Sequence[UUID], expected: Expected
    ) -> tuple[Sequence[UUID], Sequence[UUID]]:
        """The chats that are gone, and the answers in the making that went with them."""
        await chats.lock_all_owned(transaction, user_id, chat_ids)
        if expected is not None:
            require_version(await chats.lock_owned(transaction, user_id, chat_ids[0]), expected)
        orphaned = await chats.active_generations(transaction, user_id, chat_ids)
        if orphaned:
            await usage.account_unfinished(transaction, user_id, chat_ids)
        deleted = await chats.delete(transaction, user_id, chat_ids)
        events = [{"type": "chat.deleted", "chat_id": str(chat_id)} for chat_id in deleted]
        await user_events.append(transaction, user_id, *events)
        return deleted, orphaned

    async def _with_text_so_far(self, messages: Sequence[Message]) -> list[Message]:
        unfinished = {
            message.generation_id for message in messages if message.status == "streaming" and message.generation_id
        }
        if not unfinished:
            return [*messages]
        events = await messages_read.texts_so_far(self._database, [*unfinished])
        return [
            msgspec.structs.replace(message, content=payloads.text_of(events[message.generation_id]))
            if message.status == "streaming" and message.generation_id in events
            else message
            for message in messages
        ]

    async def _tell(self, user_id: UUID) -> None:
        await self._wakeups.publish(wakeups.USER_EVENT, str(user_id))


def require_version(owned: OwnedChat, expected: Expected) -> None:
    """Raises PreconditionFailed when the chat is another than the client believes."""
    if expected is not None and owned.version not in expected:
        raise PreconditionFailed


def _event(kind: str, chat: Chat) -> Mapping[str, Any]:
    return {"type": kind, "chat_id": str(chat.id), "chat": msgspec.to_builtins(chat)}


def _newest_descendant(links: Sequence[tuple[UUID, UUID | None]]) -> UUID:
    """Of the first one. A parent always comes before its children, so one pass is enough."""
    newest, _ = links[0]
    family = {newest}
    for message_id, parent_id in links:
        if parent_id in family:
            family.add(message_id)
            newest = message_id
    return newest
