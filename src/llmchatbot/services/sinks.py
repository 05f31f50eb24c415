"""What a model says of one answer, into its draft: the port `llm.port.Sink`."""

from __future__ import annotations

from llmchatbot.errors import AnswerTooLong
from llmchatbot.llm.events import Answering, Event, Finished, Notice, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from llmchatbot.llm.tokens import utf8_size
from llmchatbot.services.jobs import Job
from llmchatbot.streaming import payloads
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.writer import Writer


class JobSink:
    """Every method raises AnswerTooLong."""

    __slots__ = ("_cut", "_draft", "_job", "_limit_bytes", "_room_bytes", "_writer")

    def __init__(self, job: Job, writer: Writer, *, limit_bytes: int) -> None:
        self._job = job
        self._draft = job.draft
        self._writer = writer
        self._limit_bytes = limit_bytes
        # For text and thoughts: what other events do not need of the limit; of an answer taken over, those in its log.
        self._room_bytes = limit_bytes - payloads.size_of_calls(job.draft.tail.payloads)
        self._cut = False

    @property
    def size(self) -> int:
        return self._draft.bytes

    def text(self, piece: str) -> None:
        """Runs once per token."""
        draft = self._draft
        # No character has more than four bytes; only a piece that may not fit is measured.
        if draft.bytes + 4 * len(piece) > self._room_bytes:
            self.events([TextDelta(piece)])
            return
        draft.add_text(piece)
        self._writer.touch(draft)

    def events(self, batch: list[Event]) -> None:
        """All of a batch that does not fit is looked at: its usage counts in any case."""
        draft = self._draft
        for event in batch:
            self._take(event, draft)
        self._writer.touch(draft)
        if self._cut:
            raise AnswerTooLong(f"The answer reached the limit of {self._limit_bytes} bytes.")

    def _fitting(self, text: str) -> str:
        """As many whole characters of it as fit, and nothing of what comes behind a cut: one piece may be a MiB."""
        if self._cut:
            return ""
        room = self._room_bytes - self._draft.bytes
        if utf8_size(text) <= room:
            return text
        self._cut = True
        return text.encode()[: max(room, 0)].decode(errors="ignore")

    def _take(self, event: Event, draft: Draft) -> None:
        if isinstance(event, TextDelta):
            draft.add_text(self._fitting(event.text))
        elif isinstance(event, ReasoningDelta):
            draft.add_reasoning(self._fitting(event.text))
        elif isinstance(event, Finished):
            self._job.finish_reason = event.reason
        elif isinstance(event, Usage):
            self._job.usage = event
        elif isinstance(event, Answering):
            self._job.model, self._job.upstream = event.model or self._job.model, event.upstream
        elif isinstance(event, Notice):
            self._add(payloads.notice(event.code, event.text, event.data))
        elif isinstance(event, ToolCallDelta):
            self._take_call(event)

    def _take_call(self, event: ToolCallDelta) -> None:
        """Whole or not at all: half of a JSON text is of no use to anybody."""
        payload = payloads.tool_call(event.index, event.id, event.name, event.arguments)
        self._cut = self._cut or self._draft.bytes + len(payload) > self._room_bytes
        if not self._cut:
            self._add(payload)

    def _add(self, payload: str) -> None:
        """All of it counts, for all of it is kept: a call may be nothing but its id, its name or its number."""
        self._room_bytes -= len(payload)
        self._draft.add_event(payload)
