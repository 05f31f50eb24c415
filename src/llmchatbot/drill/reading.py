"""One reader of one answer: what a person would have on the screen, kept beside what the log must hold.

The decoder is the drill's own, so that the product is not judged by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from llmchatbot.drill.outcome import Outcome


class Block(msgspec.Struct, frozen=True):
    """One block of an event stream."""

    id: str
    name: str
    data: str


class BlockDecoder:
    """Bytes in, whole blocks out; what is left at a cut is dropped, as the standard asks."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Block]:
        self._buffer += data
        while b"\n\n" in self._buffer:
            block, _, self._buffer = self._buffer.partition(b"\n\n")
            fields: dict[str, str] = {}
            for line in block.split(b"\n"):
                if line and not line.startswith(b":"):
                    name, _, value = line.partition(b":")
                    fields[name.decode("ascii")] = value.removeprefix(b" ").decode("ascii")
            if "data" in fields:
                yield Block(fields.get("id", ""), fields.get("event", ""), fields["data"])


class Follower:
    """Takes the events of one answer through any number of connections, and notes what may not be."""

    def __init__(self, generation_id: str, outcome: Outcome) -> None:
        self.generation_id = generation_id
        self.last_id = ""
        self.seq = -1
        self.text = ""
        self.end: dict[str, Any] | None = None
        # Event number → exact payload: compared with the log at the end.
        self.payloads: dict[int, str] = {}
        # When each new event came, on the clock of the event loop.
        self.times: list[float] = []
        self.resets = 0
        self._outcome = outcome

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def status(self) -> str:
        return str(self.end.get("status", "")) if self.end is not None else ""

    def take(self, block: Block, now: float) -> None:
        event = json.loads(block.data)
        kind = event["type"]
        if kind == "notice" and event.get("code") == "reconnect":
            # The farewell of a process: the same place again, no event of the log.
            return
        stream, _, number = block.id.rpartition(".")
        if stream != self.generation_id:
            self._outcome.violate(f"an event of {stream} in the stream of {self.generation_id}")
            return
        if kind == "reset":
            self.resets += 1
            self.text = event["content"]
        elif int(number) != self.seq + 1:
            what = "doubled" if int(number) <= self.seq else "lost"
            self._outcome.violate(f"event {number} after {self.seq} of {self.generation_id}: {what}")
            return
        else:
            self.payloads[int(number)] = block.data
        self.seq, self.last_id = int(number), block.id
        self.times.append(now)
        if kind == "token":
            self.text += event["content"]
        elif kind in {"complete", "error"}:
            self._take_end(event)

    def _take_end(self, event: dict[str, Any]) -> None:
        self.end = event
        if "content" in event:
            self._outcome.check(
                event["content"] == self.text,
                f"{self.generation_id}: the text shown has {len(self.text)} characters and its end says "
                f"{len(event['content'])}",
            )

    def silence_after(self, moment: float) -> float:
        """The longest pause between two events from `moment` on, in seconds."""
        later = [time for time in self.times if time > moment]
        return max((next_ - previous for previous, next_ in zip([moment, *later], later, strict=False)), default=0.0)
