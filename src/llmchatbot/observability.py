"""Logs: one line an event, as text for people or as JSON for machines; never message text, tokens or keys.

What an exception says is not written: a driver quotes the value that it could not store, a parser the text it could not
read. The types and the places in the code are, and they are what a fault is found by.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

from llmchatbot.config import Settings
from llmchatbot.errors import AppError, StartupError

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | BaseException
)
# Their text is our own, or the operating system's word for an errno.
_OUTSPOKEN = (AppError, StartupError)

# Of the request that is being answered, and of what it sets going.
request_id: ContextVar[str] = ContextVar("request_id", default="")


def describe(error: BaseException) -> str:
    """What may be logged of an exception: its type, and its text when that is certainly ours."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, _OUTSPOKEN):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    state = getattr(error, "sqlstate", None)
    return f"{name} (SQLSTATE {state})" if state else name


def trace_of(error: BaseException) -> str:
    """As Python prints it, causes first, without the texts of foreign exceptions."""
    parts: list[str] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__))
        inner = "".join(f"\n{trace_of(one)}" for one in getattr(current, "exceptions", ()))
        parts.append(f"{frames}{describe(current)}{inner}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\nwhich led to\n".join(reversed(parts))


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's own name
        line = super().formatMessage(record)
        asked = request_id.get()
        return f"{line} request={asked}" if asked else line

    def formatException(self, ei: Any) -> str:  # noqa: N802 # logging's own name
        return _trace(ei)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if asked := request_id.get():
            entry["request"] = asked
        if record.exc_info:
            entry["exception"] = _trace(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _trace(info: _ExcInfo) -> str:
    error = info if isinstance(info, BaseException) else info[1]
    return trace_of(error) if error is not None else ""


def configure_logging(settings: Settings) -> None:
    """Replaces what was configured before."""
    as_json = settings.server.log_format == "json" or (not settings.server.log_format and settings.production)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.server.log_level.upper())
