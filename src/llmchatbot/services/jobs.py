"""One answer in the making, and how it is written down when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import msgspec

from llmchatbot.errors import AnswerTooLong, ModelError, ModelInterrupted
from llmchatbot.llm.events import MOST_TOKENS
from llmchatbot.llm.events import Usage as ModelUsage
from llmchatbot.models.generations import Generation, Status, Usage
from llmchatbot.services.prompts import Chosen, PromptBuilder
from llmchatbot.streaming import payloads
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.store import Ending


class Job:
    """An answer in the making."""

    def __init__(self, generation: Generation, draft: Draft, chosen: Chosen | None = None) -> None:
        """`chosen` is None for an answer that another process has begun: its prompt is made anew."""
        self.generation = generation
        self.draft = draft
        self.chosen = chosen
        # What a node that died has written of it: its provider told nobody what that cost.
        self.inherited = draft.text.removeprefix(generation.prefix)
        self.model = generation.model
        self.upstream = ""
        self.usage: ModelUsage | None = None
        self.finish_reason: str | None = None
        self.prompt_texts: list[str] = []
        self.stopping = False
        # By the clock of the loop: when the model was asked, and when its first text was there.
        self.asked_at: float | None = None
        self.first_at: float | None = None
        self.consumer: asyncio.Task[None] | None = None
        self.done = asyncio.Event()
        self._abandoned = asyncio.Event()

    @property
    def abandoned(self) -> bool:
        """Whether this process must not write it any more."""
        return self._abandoned.is_set()

    def abandon(self) -> None:
        self._abandoned.set()

    async def abandoned_within(self, seconds: float) -> bool:
        """Wait so long, or until it is abandoned."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._abandoned.wait()
        return self.abandoned


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer went, for whoever watches: seconds to its first text, and tokens per second from there on."""

    model: str
    status: Status
    first_text: float | None = None
    tokens_per_second: float | None = None


def pace_of(job: Job, status: Status, output_tokens: int, now: float) -> Pace:
    """`now` by the clock of the loop. An answer that was only ended here has no times."""
    if job.asked_at is None or job.first_at is None:
        return Pace(model=job.model, status=status)
    writing = now - job.first_at
    return Pace(
        model=job.model,
        status=status,
        first_text=job.first_at - job.asked_at,
        tokens_per_second=output_tokens / writing if writing > 0 else None,
    )


def status_of(job: Job, failure: ModelError | None) -> Status:
    """Only an explicit end of the model is success; what broke off after something was shown is interrupted."""
    if job.stopping and job.finish_reason is None:
        return Status.STOPPED
    if failure is None:
        return Status.COMPLETED
    cut_short = isinstance(failure, ModelInterrupted | AnswerTooLong) or job.draft.bytes > 0
    return Status.INTERRUPTED if cut_short else Status.FAILED


def ending_of(job: Job, failure: ModelError | None, prompts: PromptBuilder, *, counted: bool = True) -> Ending:
    """All that the terminal transaction writes; with `counted` false, without the provider's numbers and any cost."""
    draft, generation = job.draft, job.generation
    status = status_of(job, failure)
    text = draft.text
    usage = _usage(job, text, prompts, job.usage if counted else None)
    if failure is not None and status is not Status.STOPPED:
        payload = payloads.failure(failure, status=status.value, message_id=generation.message_id, content=text)
    else:
        payload = payloads.complete(
            status=status.value,
            message_id=generation.message_id,
            content=text,
            usage=usage,
            finish_reason=job.finish_reason,
        )
    return Ending(
        generation_id=generation.id,
        epoch=draft.epoch,
        seq=draft.next_seq,
        status=status,
        message_id=generation.message_id,
        payload=payload,
        content=text,
        reasoning=draft.reasoning,
        usage=usage,
        finish_reason=job.finish_reason,
        error_code=failure.code if failure is not None else None,
        model=job.model,
        upstream=job.upstream,
        cost=prompts.cost(job.model, usage) if counted else None,
        feed={
            "type": "generation.ended",
            "generation_id": str(generation.id),
            "chat_id": str(generation.chat_id),
            "message_id": str(generation.message_id),
            "status": status.value,
        },
    )


def _usage(job: Job, text: str, prompts: PromptBuilder, told: ModelUsage | None) -> Usage:
    """The provider's numbers; without them an estimate that says so.

    A prefix that a person asked to go on from was accounted when it was made.
    """
    tokens = partial(prompts.tokens, job.generation.model)
    if told is not None:
        inherited = tokens(job.inherited) if job.inherited else 0
        return Usage(
            input_tokens=told.input_tokens,
            output_tokens=min(told.output_tokens + inherited, MOST_TOKENS),
            estimated=told.estimated or inherited > 0,
        )
    written = text.removeprefix(job.generation.prefix)
    return Usage(input_tokens=sum(map(tokens, job.prompt_texts)), output_tokens=tokens(written), estimated=True)
