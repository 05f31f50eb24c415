"""What a person has used: `/users/me/usage`."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from llmchatbot.models.principals import Principal
from llmchatbot.models.usage import UsageSum
from llmchatbot.services.usage import UsageService


@get(
    "/users/me/usage",
    summary="What you have used",
    operation_id="listUsage",
    description="Tokens and cost by day and model, newest day first; the provider's numbers, or marked `estimated`.",
)
async def list_usage(
    principal: NamedDependency[Principal],
    usage_service: NamedDependency[UsageService],
    first: Annotated[
        date | None, QueryParameter(name="from", required=False, description="First day, UTC; by default 30 days.")
    ] = None,
    last: Annotated[
        date | None, QueryParameter(name="to", required=False, description="Last day, UTC; by default today.")
    ] = None,
    group: FromQuery[Literal["day,model", "day", "model", "none"]] = "day,model",
) -> list[UsageSum]:
    return await usage_service.sums(principal.user_id, first, last, by_day="day" in group, by_model="model" in group)


ROUTES = (list_usage,)
