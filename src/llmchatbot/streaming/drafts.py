"""An answer while it is being made in this process: text that waits for the next round of the writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self
from uuid import UUID

from llmchatbot.streaming import payloads
from llmchatbot.streaming.store import Batch
from llmchatbot.streaming.tails import Tail


class Draft:
    """Collects deltas between two rounds. Neighbouring deltas of one kind become one event: fewer rows, same text."""

    __slots__ = (
        "_kind",
        "_more",
        "_pending",
        "_piece",
        "bytes",
        "epoch",
        "generation_id",
        "lost",
        "next_seq",
        "parts",
        "reasoning_parts",
        "tail",
        "touched",
        "unstored",
    )

    def __init__(self, tail: Tail, *, epoch: int, next_seq: int, text: str = "") -> None:
        self.generation_id: UUID = tail.generation_id
        self.tail = tail
        self.epoch = epoch
        self.next_seq = next_seq
        # The text of the message up to the last event, prefix included; joined once, at the end.
        self.parts: list[str] = [text] if text else []
        self.reasoning_parts: list[str] = []
        self.bytes = len(text.encode())
        # Taken into a round but not yet known to be stored.
        self.unstored = 0
        # The writer knows already that it has something to store.
        self.touched = False
        # Set when the store said that this process may not write it any more.
        self.lost = False
        self._pending: list[str] = []
        self._kind = ""
        # What came since the last event: nearly always one delta, and seldom more.
        self._piece = ""
        self._more: list[str] = []

    @classmethod
    def of_log(cls, tail: Tail, stored: Sequence[str], *, epoch: int) -> Self:
        """One that goes on behind `stored`, the events from 0 on that the log has."""
        draft = cls(tail, epoch=epoch, next_seq=len(stored), text=payloads.text_of(stored))
        if reasoning := payloads.reasoning_of(stored):
            draft.reasoning_parts.append(reasoning)
            draft.bytes += len(reasoning.encode())
        return draft

    def add_text(self, text: str) -> None:
        """Runs once per token."""
        if self._kind != "token":
            self._seal()
            self._kind = "token"
        if self._piece:
            self._more.append(text)
        else:
            self._piece = text
        self.bytes += len(text) if text.isascii() else len(text.encode())

    def add_reasoning(self, text: str) -> None:
        if self._kind != "reasoning":
            self._seal()
            self._kind = "reasoning"
        if self._piece:
            self._more.append(text)
        else:
            self._piece = text
        self.bytes += len(text) if text.isascii() else len(text.encode())

    def add_event(self, payload: str) -> None:
        self._seal()
        self._pending.append(payload)

    def _seal(self) -> None:
        """Make one event of the deltas that came since the last one."""
        text = self._piece
        if text:
            if self._more:
                text += "".join(self._more)
                self._more.clear()
            self._piece = ""
            if self._kind == "token":
                self.parts.append(text)
                self._pending.append(payloads.token(text))
            else:
                self.reasoning_parts.append(text)
                self._pending.append(payloads.reasoning(text))
        self._kind = ""

    def take(self) -> Batch | None:
        """What is to be stored in this round; the draft counts it as under way."""
        piece = self._piece
        if piece and not (self._pending or self._more) and self._kind == "token":
            # One delta, as nearly every time: the same as below, without a list that grows and is emptied.
            self._piece = ""
            self.parts.append(piece)
            taken = [payloads.token(piece)]
        else:
            if piece:
                self._seal()
            taken = self._pending
            if not taken:
                return None
            self._pending = []
        first, count = self.next_seq, len(taken)
        self.unstored += count
        self.next_seq = first + count
        return Batch(self.generation_id, self.epoch, first, taken)

    @property
    def settled(self) -> bool:
        """Whether everything that was added is stored."""
        return not (self._pending or self._piece or self.unstored)

    @property
    def text(self) -> str:
        return "".join(self.parts) + self._unsealed("token")

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_parts) + self._unsealed("reasoning")

    def _unsealed(self, kind: str) -> str:
        return self._piece + "".join(self._more) if self._kind == kind else ""
