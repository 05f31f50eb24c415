"""Chats over HTTP: `/api/v1/chats`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from llmchatbot.handlers.etags import etag_of, versions_of
from llmchatbot.handlers.inputs import VISIBLE, Input
from llmchatbot.handlers.json_responses import JsonResponse
from llmchatbot.handlers.paging import CHATS, DEFAULT_LIMIT, CursorText, Limit, decode_moment, encode_moment, next_link
from llmchatbot.models.chats import (
    NO_PARAMETERS,
    Chat,
    ChatChanges,
    ChatKey,
    ChatParameters,
    ModelName,
    OwnedChat,
    Title,
)
from llmchatbot.models.messages import Message
from llmchatbot.models.principals import Principal
from llmchatbot.services.chats import ChatService

TAGS = ["chats"]
NO_STORE = {"Cache-Control": "no-store"}
PATH = "/api/v1/chats"

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description="Only if it still has this ETag; else the answer is 412.", required=False
    ),
]


class NewChat(Input, frozen=True, kw_only=True):
    title: Title | None = None
    model_used: ModelName | None = None
    parameters: ChatParameters | None = None


class ChangedChat(Input, frozen=True, kw_only=True):
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=VISIBLE)] | None = None
    model_used: ModelName | None = None
    parameters: ChatParameters | None = None


class ChatIds(Input, frozen=True, kw_only=True):
    ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=100)]


class BranchChoice(Input, frozen=True, kw_only=True):
    message_id: UUID


class ChatOutput(Chat, frozen=True, gc=False, omit_defaults=True):
    """A chat, and its current branch if it was asked for."""

    messages: list[Message] | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    message: str


class DoneWith(msgspec.Struct, frozen=True, kw_only=True):
    """`ids`: those that it was done with; what is missing or somebody else's is passed over."""

    message: str
    ids: list[UUID]


def _respond(owned: OwnedChat, status_code: int = 200) -> Response[Chat]:
    return JsonResponse(owned.chat, status_code=status_code, headers={"ETag": etag_of(owned.version)})


@get(
    "/chats",
    summary="List your chats",
    description="The most recently used first. The `Link` header leads to the next page.",
    operation_id="listChats",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def list_chats(
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    include_archived: Annotated[bool, QueryParameter(required=False)] = False,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> Response[list[Chat]]:
    after = ChatKey(*decode_moment(CHATS, cursor)) if cursor else None
    page = await chat_service.list_page(principal.user_id, include_archived=include_archived, after=after, limit=limit)
    if not page.more:
        return JsonResponse(page.items)
    last = page.items[-1]
    going_on: dict[str, str | int] = {"limit": limit, "cursor": encode_moment(CHATS, last.updated_at, last.id)}
    if include_archived:
        going_on["include_archived"] = "true"
    return JsonResponse(page.items, headers=next_link(PATH, going_on))


@post("/chats", summary="Begin a chat", operation_id="createChat", tags=TAGS, response_headers=NO_STORE)
async def create_chat(
    data: JSONBody[NewChat], chat_service: NamedDependency[ChatService], principal: NamedDependency[Principal]
) -> Response[Chat]:
    created = await chat_service.create(
        principal.user_id,
        title=(data.title or "").strip(),
        model_used=data.model_used or "",
        parameters=data.parameters or NO_PARAMETERS,
    )
    return _respond(created, 201)


@get(
    "/chats/{chat_id:uuid}",
    summary="Read a chat",
    description="With `include_messages=true` also its current branch, oldest first.",
    operation_id="getChat",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def get_chat(
    chat_id: FromPath[UUID],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    include_messages: Annotated[bool, QueryParameter(required=False)] = False,
) -> Response[ChatOutput]:
    chat, version = await chat_service.get(principal.user_id, chat_id)
    messages = None
    if include_messages:
        messages = (await chat_service.list_messages(principal.user_id, chat_id)).items
    values = (*msgspec.structs.astuple(chat), messages)
    body = ChatOutput(*values)
    return JsonResponse(body, headers={"ETag": etag_of(version)})


@put(
    "/chats/{chat_id:uuid}",
    summary="Change a chat",
    description="What is left out stays as it is; `parameters` are replaced as a whole.",
    operation_id="updateChat",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def update_chat(
    chat_id: FromPath[UUID],
    data: JSONBody[ChangedChat],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Chat]:
    title = data.title.strip() if data.title is not None else None
    changes = ChatChanges(title=title, model_used=data.model_used, parameters=data.parameters)
    return _respond(await chat_service.update(principal.user_id, chat_id, changes, versions_of(if_match)))


@delete(
    "/chats/{chat_id:uuid}",
    status_code=200,
    summary="Archive a chat",
    description="It can be restored.",
    operation_id="archiveChat",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def archive_chat(
    chat_id: FromPath[UUID],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Done:
    await chat_service.archive(principal.user_id, chat_id, versions_of(if_match))
    return Done(message="The chat is archived.")


@post(
    "/chats/{chat_id:uuid}/restore",
    status_code=200,
    summary="Restore an archived chat",
    operation_id="restoreChat",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def restore_chat(
    chat_id: FromPath[UUID],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Chat]:
    return _respond(await chat_service.restore(principal.user_id, chat_id, versions_of(if_match)))


@delete(
    "/chats/{chat_id:uuid}/permanent",
    status_code=200,
    summary="Delete a chat for good",
    description="With all its messages; an answer in the making is stopped.",
    operation_id="deleteChat",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def delete_chat(
    chat_id: FromPath[UUID],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Done:
    await chat_service.delete(principal.user_id, chat_id, versions_of(if_match))
    return Done(message="The chat is deleted for good.")


@post(
    "/chats/restore",
    status_code=200,
    summary="Restore archived chats",
    operation_id="restoreChats",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def restore_chats(
    data: JSONBody[ChatIds], chat_service: NamedDependency[ChatService], principal: NamedDependency[Principal]
) -> DoneWith:
    restored = await chat_service.restore_many(principal.user_id, data.ids)
    return DoneWith(message=f"Restored: {len(restored)}.", ids=[*restored])


@post(
    "/chats/delete",
    status_code=200,
    summary="Delete chats for good",
    operation_id="deleteChats",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def delete_chats(
    data: JSONBody[ChatIds], chat_service: NamedDependency[ChatService], principal: NamedDependency[Principal]
) -> DoneWith:
    deleted = await chat_service.delete_many(principal.user_id, data.ids)
    return DoneWith(message=f"Deleted for good: {len(deleted)}.", ids=[*deleted])


@put(
    "/chats/{chat_id:uuid}/leaf",
    summary="Switch to another branch",
    description="To the newest message that follows from `message_id`: what is shown and continued from now on.",
    operation_id="setChatLeaf",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def set_chat_leaf(
    chat_id: FromPath[UUID],
    data: JSONBody[BranchChoice],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
) -> Response[Chat]:
    return _respond(await chat_service.set_branch(principal.user_id, chat_id, data.message_id))


ROUTES = (
    list_chats,
    create_chat,
    restore_chats,
    delete_chats,
    get_chat,
    update_chat,
    archive_chat,
    restore_chat,
    delete_chat,
    set_chat_leaf,
)
