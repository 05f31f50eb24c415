"""What readers ask of a generation: its events from a cursor on, its stop, its receipt, its recorded prompt."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from llmchatbot.clock import Clock
from llmchatbot.database.pool import Database
from llmchatbot.errors import DatabaseUnavailable, InvalidToken, ModelError, ModelInterrupted, NotFound, Unavailable
from llmchatbot.models.generations import Cursor, Generation, Receipt, Status
from llmchatbot.models.principals import Principal
from llmchatbot.repositories import generations, stream_tickets
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.streaming import payloads, wakeups
from llmchatbot.streaming.followers import Followers
from llmchatbot.streaming.replays import Replay
from llmchatbot.streaming.store import Store
from llmchatbot.streaming.streams import Source
from llmchatbot.streaming.tails import Excerpt, ResetView, Tail, Tails
from llmchatbot.streaming.wakeups import WakeUps

logger = logging.getLogger(__name__)

# Longer than a lease and its takeover: a stop asked of a dead node is carried out by its successor.
_STOP_SECONDS = 15.0
_STOP_POLL_SECONDS = 0.25
_READ_LIMIT = 5000


class Reading(msgspec.Struct, frozen=True):
    """Where a reader starts: a source of events, and the number of the last one it has.

    `marks_end`: somebody wants to know whether the end was written to a reader.
    """

    source: Source
    seq: int
    marks_end: bool = False

    @property
    def nothing_left(self) -> bool:
        return self.source.ended and self.seq >= self.source.last


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    ticket: str
    expires_at: datetime


class GenerationService:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        tails: Tails,
        followers: Followers,
        maker: AnswerMaker,
        wakeups: WakeUps,
        clock: Clock,
        ticket_seconds: float,
    ) -> None:
        self._database = database
        self._store = store
        self._tails = tails
        self._followers = followers
        self._maker = maker
        self._wakeups = wakeups
        self._clock = clock
        self._ticket_seconds = ticket_seconds

    async def get_owned(self, user_id: UUID, generation_id: UUID) -> Generation:
        """Raises NotFound."""
        return await generations.get_owned(self._database, user_id, generation_id)

    async def read(self, user_id: UUID, generation_id: UUID, cursor: Cursor | None) -> Reading:
        """Raises NotFound for what is not the user's; a cursor of another generation starts from the beginning."""
        generation = await self.get_owned(user_id, generation_id)
        reading = await self._read(generation, cursor)
        return msgspec.structs.replace(reading, marks_end=generation.derived_key)

    async def read_sent(self, generation: Generation) -> Reading:
        """From the beginning, for whoever has just sent: what is made here needs no look at the database.

        Never refused, for the message is stored (protocol §2): without a database the reader is asked to come again.
        """
        tail = self._tails.find(generation.id)
        if tail is not None and (tail.ended or self._maker.makes(generation.id)):
            return Reading(tail, -1, generation.derived_key)
        try:
            return await self.read(generation.user_id, generation.id, None)
        except DatabaseUnavailable:
            return Reading(Replay(self._store, generation.id, 0, 0, replaced=True), -1)

    def made_here(self, generation_id: UUID) -> None:
        """Its maker feeds its tail from now on, also for readers that were faster than its commit was told."""
        self._followers.release(generation_id)

    async def _read(self, generation: Generation, cursor: Cursor | None) -> Reading:
        generation_id = generation.id
        seq = cursor.seq if cursor is not None and cursor.generation_id == generation_id else -1
        if not generation.status.terminal:
            tail = self._tails.find(generation_id)
            if tail is None or not self._maker.makes(generation_id):
                tail = self._followers.follow(generation_id)
            if seq > tail.last:
                # Not ours yet, perhaps: what the log holds decides, not what this process has seen of it.
                await self._catch_up(tail)
                if tail.ended:
                    # Meanwhile. A reset in the place of its end would hide the end.
                    return await self._read_ended(await self.get_owned(generation.user_id, generation_id), seq)
                if seq > tail.last:
                    # Beyond the end: the whole text under the number of the newest event, then what follows.
                    return Reading(ResetView(tail, payloads.text_of(tail.payloads)), tail.last - 1)
            return Reading(tail, seq)
        return await self._read_ended(generation, seq)

    async def _read_ended(self, generation: Generation, seq: int) -> Reading:
        last = generation.last_seq if generation.last_seq is not None else -1
        if seq <= last:
            tail = self._tails.find(generation.id)
            if tail is not None and tail.ended:
                return Reading(tail, seq)
            replay = Replay(self._store, generation.id, seq + 1, last)
            await replay.load()
            if seq == last or replay.last > seq:
                return Reading(replay, seq)
        return await self._whole_again(generation)

    async def _whole_again(self, generation: Generation) -> Reading:
        """The events were compacted, or the cursor lies beyond them: the whole text, then the end as it was."""
        ended = await generations.find_ended(self._database, generation.user_id, generation.id)
        if ended is None:
            raise NotFound
        kept = await self._store.read(generation.id, ended.last_seq, 1)
        final = kept[0][1] if kept else _end_of(generation, ended)
        first = ended.last_seq - 1
        return Reading(Excerpt(generation.id, first, [payloads.reset(ended.content), final]), first - 1)

    async def _catch_up(self, tail: Tail) -> None:
        while not tail.ended:
            first = tail.last + 1
            events = await self._store.read(tail.generation_id, first, _READ_LIMIT)
            contiguous = [payload for offset, (seq, payload) in enumerate(events) if seq == first + offset]
            if contiguous:
                tail.extend(first, contiguous)
            if len(contiguous) < _READ_LIMIT:
                return

    async def stop(self, user_id: UUID, generation_id: UUID) -> Receipt:
        """Works from any process, before the first token, and twice. Raises NotFound, or Unavailable after 15 s."""
        generation = await self.get_owned(user_id, generation_id)
        if not generation.status.terminal:
            ended = asyncio.Event()

            def on_ended(payload: str) -> None:
                if payload == str(generation_id):
                    ended.set()

            unsubscribe = self._wakeups.subscribe(wakeups.ENDED, on_ended)
            try:
                await generations.request_stop(self._database, user_id, generation_id)
                if not self._maker.stop(generation_id):
                    await self._wakeups.publish(wakeups.STOP, str(generation_id))
                return await self._receipt_when_ended(user_id, generation_id, ended)
            finally:
                unsubscribe()
        return await self._receipt_when_ended(user_id, generation_id, asyncio.Event())

    async def _receipt_when_ended(self, user_id: UUID, generation_id: UUID, ended: asyncio.Event) -> Receipt:
        deadline = self._clock.monotonic() + _STOP_SECONDS
        while True:
            end = await generations.find_ended(self._database, user_id, generation_id)
            if end is not None:
                return Receipt(
                    status=end.status.value,
                    last_event_id=str(Cursor(generation_id, end.last_seq)),
                    characters=len(end.content),
                    usage=end.usage,
                )
            # It may be deleted meanwhile, and then gets no end.
            await generations.get_owned(self._database, user_id, generation_id)
            if self._clock.monotonic() > deadline:
                raise Unavailable("The answer is being stopped; ask again for the receipt.", retry_after=2)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _STOP_POLL_SECONDS)
            ended.clear()

    async def prompt(self, user_id: UUID, generation_id: UUID) -> dict[str, Any]:
        """What was sent: message ids, trims, parameters, model. Raises NotFound."""
        return await generations.find_prompt(self._database, user_id, generation_id) or {}

    async def mark_delivered(self, generation_id: UUID) -> None:
        """Never raises: the reader gets its end all the same."""
        try:
            await generations.mark_delivered(self._database, generation_id)
        except DatabaseUnavailable:
            logger.info("the end of generation %s was not marked as delivered", generation_id)

    async def issue_ticket(self, principal: Principal, generation_id: UUID) -> Ticket:
        """For a native EventSource on another origin. Only its hash is stored. Raises NotFound."""
        await self.get_owned(principal.user_id, generation_id)
        ticket = secrets.token_urlsafe(32)
        expires_at = self._clock.now() + timedelta(seconds=self._ticket_seconds)
        await stream_tickets.create(
            self._database, _hash(ticket), generation_id, principal.user_id, principal.session_id, expires_at
        )
        return Ticket(ticket=ticket, expires_at=expires_at)

    async def redeem_ticket(self, ticket: str, generation_id: UUID) -> Principal:
        """Raises InvalidToken when it is unknown, too old, for another generation, or its device was logged out."""
        principal = await stream_tickets.find(self._database, _hash(ticket), generation_id, self._clock.now())
        if principal is None:
            raise InvalidToken("The stream ticket is not valid; ask for a new one.")
        return principal


def _end_of(generation: Generation, ended: generations.Ended) -> str:
    """The last event of an answer whose log is gone, made anew from what is kept for good."""
    message_id, status = generation.message_id, ended.status.value
    if ended.status in {Status.FAILED, Status.INTERRUPTED}:
        kinds = {kind.code: kind for kind in ModelError.__subclasses__()}
        error = kinds.get(generation.error_code or "", ModelInterrupted)()
        return payloads.failure(error, status=status, message_id=message_id, content=ended.content)
    return payloads.complete(
        status=status,
        message_id=message_id,
        content=ended.content,
        usage=ended.usage,
        finish_reason=generation.finish_reason,
    )


def _hash(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
