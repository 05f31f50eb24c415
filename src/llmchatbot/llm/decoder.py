"""Bytes into events: server-sent events by the rules of the WHATWG, and newline-delimited JSON. Both are bounded.

Works on bytes, never on text: a text reader would also split at U+2028, U+0085 and their like, in the middle of a JSON
string. Data stays bytes, because the JSON decoder wants bytes; `decode_utf8` gives the text that a browser would see.
How the bytes are cut into chunks makes no difference to what comes out, not even to where the limit strikes.
"""

from __future__ import annotations

from llmchatbot.errors import ModelProtocolError

BOM = b"\xef\xbb\xbf"
MAX_LINE = 1 << 20
"""Bytes. A finished answer of 1 MiB is refused elsewhere by its own limit; a longer line is no sane protocol."""
MAX_EVENT = 2 << 20
"""Bytes of data in one event."""

SseEvent = tuple[str, bytes]
"""(type, data). The type is "" where the stream named none, which means `message`."""


def decode_utf8(data: bytes) -> str:
    """Decode as the Encoding standard does: each broken sequence becomes one U+FFFD, nothing raises."""
    return data.decode("utf-8", "replace")


class _Lines:
    """What both decoders share: the byte order mark, the rest of an unfinished line, the limit and the failure."""

    __slots__ = ("_head", "_rest", "failure", "max_line")

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self.failure: ModelProtocolError | None = None
        """Set when a limit was passed. What came before it has been handed out; the reader raises it after that."""
        self._rest = bytearray()
        self._head: bytes | None = b""

    def single(self, chunk: bytes) -> bytes | None:
        """The data of the one plain record that `chunk` is; None, and nothing is taken, when it is not that.

        For whoever has a short way for it; lines of JSON have none.
        """
        return None

    def _skip_bom(self, chunk: bytes) -> bytes:
        """Drop a byte order mark at the very start, however it was cut; b"" while undecided."""
        head = (self._head or b"") + chunk
        if len(head) < len(BOM) and BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(BOM)

    def _fail_line(self) -> None:
        self._fail(f"The model's service sent a line of more than {self.max_line} bytes.")

    def _fail(self, detail: str) -> None:
        self._rest.clear()
        if self.failure is None:
            self.failure = ModelProtocolError(detail)


class SseDecoder(_Lines):
    """Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html §9.2.6.

    An event whose final blank line never came is dropped, as the standard says.
    """

    __slots__ = ("_between", "_data", "_data_size", "_event", "_id", "_skip_lf", "last_event_id", "max_event", "retry")

    def __init__(self, *, max_line: int = MAX_LINE, max_event: int = MAX_EVENT) -> None:
        super().__init__(max_line)
        self.max_event = max_event
        self.last_event_id = ""
        self.retry: int | None = None
        """Milliseconds."""
        self._data: list[bytes] = []
        self._data_size = 0
        self._event = ""
        self._id = ""
        self._skip_lf = False
        # Nothing is kept for what comes next. One flag, since looking at all of it costs more than the event.
        self._between = False

    def single(self, chunk: bytes) -> bytes | None:
        """See `_Lines.single`: one event without a name.

        Where a model sends token by token, a piece of the network is one event of one line.
        """
        size = len(chunk)
        if (
            self._between
            and chunk[:6] == b"data: "
            and chunk.find(b"\n") == size - 2
            and chunk[-1:] == b"\n"
            and size <= self.max_line
            and b"\r" not in chunk
        ):
            return chunk[6:-2]
        return None

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that this chunk completed. After a failure: nothing more."""
        data = self.single(chunk)
        if data is not None:
            return [("", data)]
        if not self._between or b"\r" in chunk:
            chunk = self._prepare(chunk)
        events = self._events(chunk) if chunk else []
        kept = self._rest or self._data or self._event or self._id or self._skip_lf
        self._between = not kept and self._head is None and self.failure is None
        return events

    def _prepare(self, chunk: bytes) -> bytes:
        """All that a chunk may need before it is cut into lines; b"" when no line ends in it."""
        if self.failure is not None:
            return b""
        if self._head is not None:
            chunk = self._skip_bom(chunk)
        chunk = self._unify_line_ends(chunk)
        if not self._rest:
            return chunk
        if b"\n" not in chunk:
            self._keep(chunk)
            return b""
        chunk = bytes(self._rest) + chunk
        self._rest.clear()
        return chunk

    def finish(self) -> list[SseEvent]:
        """The body is over: an event without its final blank line is dropped."""
        self._rest.clear()
        self._data = []
        return []

    def _unify_line_ends(self, chunk: bytes) -> bytes:
        """Turn CRLF and CR into LF. A CR ends its line at once; an LF that opens the next chunk belongs to it."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _events(self, buffer: bytes) -> list[SseEvent]:
        events: list[SseEvent] = []
        position, limit, find, starts = 0, self.max_line, buffer.find, buffer.startswith
        while (end := find(b"\n", position)) >= 0:
            if end - position > limit:
                self._fail_line()
                return events
            # The shape of nearly every event of nearly every provider: one line `data: …`, then the blank line.
            if starts(b"data: ", position) and starts(b"\n", end + 1) and not self._data and not self._event:
                events.append(("", buffer[position + 6 : end]))
                position = end + 2
                if self._id is not self.last_event_id:
                    self.last_event_id = self._id
                continue
            if end == position:
                self._dispatch(events)
            elif not self._field(buffer[position:end]):
                return events
            position = end + 1
        if position < len(buffer):
            self._keep(buffer[position:] if position else buffer)
        return events

    def _keep(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self.max_line:
            self._fail_line()

    def _field(self, line: bytes) -> bool:
        """Take one line that is not blank; False when the event grew beyond the limit."""
        if line.startswith(b"data: "):
            return self._add(line[6:])
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            return self._add(value)
        if name == b"event":
            self._event = decode_utf8(value)
        elif name == b"id":
            if b"\x00" not in value:
                self._id = decode_utf8(value)
        elif name == b"retry" and value.isdigit():
            self.retry = int(value[:12])
        return True

    def _add(self, value: bytes) -> bool:
        self._data.append(value)
        self._data_size += len(value) + 1
        if self._data_size > self.max_event:
            self._fail(f"The model's service sent an event of more than {self.max_event} bytes.")
            return False
        return True

    def _dispatch(self, events: list[SseEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            data = self._data
            events.append((self._event, data[0] if len(data) == 1 else b"\n".join(data)))
            self._data = []
            self._data_size = 0
        self._event = ""


class NdjsonDecoder(_Lines):
    """Newline-delimited JSON: one document a line, blank lines skipped, CR before LF is JSON white space."""

    __slots__ = ()

    def __init__(self, *, max_line: int = MAX_LINE) -> None:
        super().__init__(max_line)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that this chunk completed, without their ends. After a failure: nothing more."""
        if self.failure is not None:
            return []
        if self._head is not None:
            chunk = self._skip_bom(chunk)
        parts = chunk.split(b"\n")
        lines: list[bytes] = []
        for part in parts[:-1]:
            line = part
            if self._rest:
                line = bytes(self._rest) + part
                self._rest.clear()
            if len(line) > self.max_line:
                self._fail_line()
                return lines
            if not line.isspace() and line:
                lines.append(line)
        self._rest += parts[-1]
        if len(self._rest) > self.max_line:
            self._fail_line()
        return lines

    def finish(self) -> list[bytes]:
        """Return what stands after the last line end: a JSON document needs no line end to be whole."""
        rest = bytes(self._rest).strip()
        self._rest.clear()
        return [rest] if rest else []
