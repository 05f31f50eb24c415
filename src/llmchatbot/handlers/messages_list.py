"""Reading the messages of a chat, page by page."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from llmchatbot.handlers.chats import NO_STORE, PATH
from llmchatbot.handlers.json_responses import JsonResponse
from llmchatbot.handlers.paging import (
    DEFAULT_LIMIT,
    MESSAGES,
    CursorText,
    Limit,
    decode_number,
    encode_number,
    next_link,
)
from llmchatbot.models.messages import Message
from llmchatbot.models.principals import Principal
from llmchatbot.services.chats import ChatService

Order = Literal["asc", "desc"]
Branch = Literal["current", "all"]


@get(
    "/chats/{chat_id:uuid}/messages",
    summary="List the messages of a chat",
    description="Of the current branch, or of the whole tree. The `Link` header leads to the next page.",
    operation_id="listMessages",
    tags=["messages"],
    response_headers=NO_STORE,
)
async def list_messages(
    *,
    chat_id: FromPath[UUID],
    chat_service: NamedDependency[ChatService],
    principal: NamedDependency[Principal],
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
    order: Annotated[Order, QueryParameter(required=False, description="By sequence number.")] = "asc",
    branch: Annotated[Branch, QueryParameter(required=False)] = "current",
) -> Response[list[Message]]:
    page = await chat_service.list_messages(
        principal.user_id,
        chat_id,
        whole_tree=branch == "all",
        newest_first=order == "desc",
        after=decode_number(MESSAGES, cursor) if cursor else None,
        limit=limit,
    )
    if not page.more:
        return JsonResponse(page.items)
    going_on: dict[str, str | int] = {
        "limit": limit,
        "cursor": encode_number(MESSAGES, page.items[-1].sequence_number),
        "order": order,
        "branch": branch,
    }
    return JsonResponse(page.items, headers=next_link(f"{PATH}/{chat_id}/messages", going_on))


ROUTES = (list_messages,)
