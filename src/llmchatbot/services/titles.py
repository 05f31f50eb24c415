"""Titles of chats: from the question's first words at once, or by the model after the first answer."""

from __future__ import annotations

import logging
from contextlib import aclosing
from uuid import UUID

from llmchatbot.database.pool import Database
from llmchatbot.errors import AppError
from llmchatbot.llm.events import TextDelta
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway
from llmchatbot.llm.port import Parameters, PromptMessage
from llmchatbot.models.generations import Generation, Status
from llmchatbot.repositories import chats, messages, user_events
from llmchatbot.streaming import wakeups
from llmchatbot.streaming.wakeups import WakeUps
from llmchatbot.tasks import Supervisor

logger = logging.getLogger(__name__)

_LONGEST = 60
# What the model is shown of each side; a title needs no more.
_EXCERPT = 1000
_TOKENS = 24
_ASK = (
    "Write a title for this conversation: at most six words, in its language, without quotation marks, "
    "without a full stop. Answer with the title alone."
)


def title_of(text: str) -> str:
    """The first line, cut at a word, at most 60 characters; empty when there is nothing to see."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= _LONGEST:
        return line
    cut = line[:_LONGEST]
    head, space, _ = cut.rpartition(" ")
    return f"{(head if space and len(head) > _LONGEST // 2 else cut).rstrip()}…"


class TitleService:
    """Asks the model for a better title once the first answer is complete; the answer waits for nothing.

    It comes over the feed as `chat.updated`. A title that a person has written is never touched.
    """

    def __init__(
        self, database: Database, gateway: ModelGateway, wakeups: WakeUps, supervisor: Supervisor, *, enabled: bool
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._wakeups = wakeups
        self._supervisor = supervisor
        self._enabled = enabled

    def on_finished(self, generation: Generation, status: Status) -> None:
        """Called by the maker after each terminal transaction."""
        if self._enabled and status is Status.COMPLETED:
            self._supervisor.spawn(self._retitle(generation), name=f"title {generation.chat_id}")

    async def _retitle(self, generation: Generation) -> None:
        branch = await messages.branch(self._database, generation.chat_id, generation.message_id, 3)
        if len(branch) != 2 or not await chats.has_title_from_text(self._database, generation.chat_id):
            return
        question, answer = branch
        try:
            title = title_of(await self._ask(generation, question.content, answer.content))
        except AppError as error:
            logger.info("no title for chat %s: %s", generation.chat_id, error.code)
            return
        if title:
            await self._store(generation.user_id, generation.chat_id, title)

    async def _ask(self, generation: Generation, question: str, answer: str) -> str:
        text = f"{_ASK}\n\nQuestion: {question[:_EXCERPT]}\n\nAnswer: {answer[:_EXCERPT]}"
        request = GatewayRequest(
            model=generation.model,
            messages=(PromptMessage(role="user", content=text),),
            parameters=Parameters(max_tokens=_TOKENS),
            user_id=str(generation.user_id),
        )
        parts: list[str] = []
        async with aclosing(self._gateway.stream(request)) as batches:
            async for batch in batches:
                parts += [event.text for event in batch if isinstance(event, TextDelta)]
        return "".join(parts).strip().strip("\"'«»“”").rstrip(".")

    async def _store(self, user_id: UUID, chat_id: UUID, title: str) -> None:
        async with self._database.transaction() as transaction:
            if not await chats.set_title_by_model(transaction, chat_id, title):
                return
            await user_events.append(
                transaction, user_id, {"type": "chat.updated", "chat_id": str(chat_id), "title": title}
            )
        await self._wakeups.publish(wakeups.USER_EVENT, str(user_id))
