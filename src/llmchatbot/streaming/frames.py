"""Events as bytes on the wire: server-sent events and their NDJSON twin (protocol §3).

The frames are the subset of the WHATWG grammar that every common decoder reads alike: LF only, one `data` line of
ASCII, `retry` only inside the first block and a farewell, heartbeats as a comment line without a blank line after it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from llmchatbot.streaming.payloads import ERROR

RETRY_MILLISECONDS = 1500
HEARTBEAT = b":\n"

# NDJSON has no comments; a blank line is what its readers skip.
NDJSON_HEARTBEAT = b"\n"


class Format(StrEnum):
    SSE = "text/event-stream"
    NDJSON = "application/x-ndjson"

    @property
    def heartbeat(self) -> bytes:
        return HEARTBEAT if self is Format.SSE else NDJSON_HEARTBEAT

    @property
    def content_type(self) -> bytes:
        return b"text/event-stream; charset=utf-8" if self is Format.SSE else b"application/x-ndjson; charset=utf-8"

    def render(self, stream_id: UUID | str, first: int, payloads: Sequence[str]) -> bytes:
        """`payloads` as the events `first`, `first + 1`, … of one stream."""
        if self is _NDJSON:
            return "".join(
                f'{payload[:-1]},"id":"{stream_id}.{seq}"}}\n' for seq, payload in enumerate(payloads, first)
            ).encode("ascii")
        if len(payloads) == 1 and not payloads[0].startswith(ERROR):
            # Nearly every frame, thousands a second.
            return f"id: {stream_id}.{first}\ndata: {payloads[0]}\n\n".encode("ascii")
        return "".join(
            f"id: {stream_id}.{seq}\ndata: {payload}\n\n"
            if not payload.startswith(ERROR)
            else f"id: {stream_id}.{seq}\nevent: error\ndata: {payload}\n\n"
            for seq, payload in enumerate(payloads, first)
        ).encode("ascii")

    def opening(self) -> bytes:
        """Stands before the first block of a stream; not a block of its own, which some decoders would deliver."""
        return b"retry: %d\n" % RETRY_MILLISECONDS if self is Format.SSE else b""

    def farewell(self, stream_id: UUID | str, seq: int) -> bytes:
        """Sends a reader elsewhere: the same place, after a pause that spreads the crowd (protocol §6).

        It rides on a notice: a block with `retry` alone is an empty event to several decoders.
        """
        pause = random.randint(200, RETRY_MILLISECONDS)  # noqa: S311 # no secret
        notice = f'{{"type":"notice","code":"reconnect","content":"Please reconnect.","retry":{pause}'
        if self is Format.NDJSON:
            place = f',"id":"{stream_id}.{seq}"' if seq >= 0 else ""
            return f"{notice}{place}}}\n".encode("ascii")
        place = f"id: {stream_id}.{seq}\n" if seq >= 0 else ""
        return f"retry: {pause}\n{place}data: {notice}}}\n\n".encode("ascii")


# Asking the class for its member costs more than the comparison.
_NDJSON = Format.NDJSON
