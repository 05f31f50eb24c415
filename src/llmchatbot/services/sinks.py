"""What a model says of one answer, into its draft: the port `llm.port.Sink`."""

from __future__ import annotations

from llmchatbot.errors import AnswerTooLong
from llmchatbot.llm.events import Answering, Event, Finished, Notice, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from llmchatbot.services.jobs import Job
from llmchatbot.streaming import payloads
from llmchatbot.streaming.drafts import Draft
from llmchatbot.streaming.writer import Writer


class JobSink:
    """Every method raises AnswerTooLong."""

    __slots__ = ("_draft", "_job", "_limit_bytes", "_writer")

    def __init__(self, job: Job, writer: Writer, *, limit_bytes: int) -> None:
        self._job = job
        self._draft = job.draft
        self._writer = writer
        self._limit_bytes = limit_bytes

    @property
    def size(self) -> int:
        return self._draft.bytes

    def text(self, piece: str) -> None:
        """Runs once per token."""
        draft = self._draft
        draft.add_text(piece)
        self._writer.touch(draft)
        if draft.bytes > self._limit_bytes:
            self._refuse()

    def events(self, batch: list[Event]) -> None:
        draft = self._draft
        for event in batch:
            self._take(event, draft)
        self._writer.touch(draft)
        if draft.bytes > self._limit_bytes:
            self._refuse()

    def _refuse(self) -> None:
        raise AnswerTooLong(f"The answer reached the limit of {self._limit_bytes} bytes.")

    def _take(self, event: Event, draft: Draft) -> None:
        if isinstance(event, TextDelta):
            draft.add_text(event.text)
        elif isinstance(event, ReasoningDelta):
            draft.add_reasoning(event.text)
        elif isinstance(event, Finished):
            self._job.finish_reason = event.reason
        elif isinstance(event, Usage):
            self._job.usage = event
        elif isinstance(event, Answering):
            self._job.model, self._job.upstream = event.model or self._job.model, event.upstream
        elif isinstance(event, Notice):
            draft.add_event(payloads.notice(event.code, event.text, event.data))
        elif isinstance(event, ToolCallDelta):
            draft.add_event(
                payloads.encode(
                    {
                        "type": "tool_call",
                        "index": event.index,
                        "id": event.id,
                        "name": event.name,
                        "arguments": event.arguments,
                    }
                )
            )
