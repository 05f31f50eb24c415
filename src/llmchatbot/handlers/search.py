"""Searching one's own chats: `/api/v1/search`."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from llmchatbot.handlers.chats import NO_STORE
from llmchatbot.handlers.inputs import require_storable
from llmchatbot.handlers.json_responses import JsonResponse
from llmchatbot.handlers.paging import HITS, CursorText, Limit, decode_moment, encode_moment, next_link
from llmchatbot.models.principals import Principal
from llmchatbot.models.search import SearchHit, SearchKey
from llmchatbot.services.search import SearchService

PATH = "/api/v1/search"
DEFAULT_HITS = 20

Question = Annotated[str, QueryParameter(min_length=1, max_length=200, description="The last word may be unfinished.")]


@get(
    "/search",
    summary="Search your chats",
    description=(
        "Titles and messages in which all words stand, the newest first, archived chats too. In `snippet`, which is "
        "plain text, each hit stands between U+0002 and U+0003. The `Link` header leads to the next page."
    ),
    operation_id="search",
    tags=["search"],
    response_headers=NO_STORE,
)
async def search(
    q: Question,
    search_service: NamedDependency[SearchService],
    principal: NamedDependency[Principal],
    limit: Limit = DEFAULT_HITS,
    cursor: CursorText = None,
) -> Response[list[SearchHit]]:
    after = SearchKey(*decode_moment(HITS, cursor)) if cursor else None
    question = require_storable("q", q)
    page, key = await search_service.search(principal.user_id, question, after=after, limit=limit)
    if key is None:
        return JsonResponse(page.items)
    return JsonResponse(
        page.items, headers=next_link(PATH, {"q": q, "limit": limit, "cursor": encode_moment(HITS, *key)})
    )


ROUTES = (search,)
