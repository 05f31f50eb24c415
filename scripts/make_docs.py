"""Write what is made from the code: docs/settings.md, .env.example, docs/errors.md, docs/openapi.json.

`make docs` writes, `make_docs.py --check` says which of them is no longer what the code says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from llmchatbot import config, errors, main
from llmchatbot.wiring import Backend

ROOT = Path(__file__).resolve().parent.parent

_SECTIONS = {
    "server": ("Server", "Where the backend listens, and how long it is patient."),
    "database": ("Database", "Leave `DB_HOST` empty for the PostgreSQL that comes with the product."),
    "auth": ("Accounts", "Tokens, devices, guests, and limits against guessing."),
    "redis": ("Redis", "Optional: it carries wake-ups and rate limits between processes, never data."),
    "model": ("Models", "Which models there are; [models.md](models.md) has the file format."),
    "stream": ("Streams", "How answers are stored, sent, resumed and taken over."),
    "limits": ("Limits", "What one person may use."),
}
_KINDS = {bool: "true or false", int: "whole number", config.Duration: "duration", Path: "path", str: "text"}
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def _as_text(value: object) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, config.Duration):
        return _duration(value)
    return str(value)


def _duration(seconds: float) -> str:
    """The shortest exact form; days only from two on, because `168h` is how such settings are written elsewhere."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    size, unit = next(
        (size, unit) for size, unit in _UNITS if seconds % size == 0 and (unit != "d" or seconds > 604_800)
    )
    return f"{round(seconds / size)}{unit}"


def settings_table() -> str:
    lines = [
        "# Settings",
        "",
        "Each is an environment variable; what is not set there is read from the file `.env` in the working directory.",
        "An empty value is the same as none. A wrong one ends the start with a sentence that names it.",
        "",
        "Durations are written as `20ms`, `15s`, `15m`, `168h`, `90d` or `1h30m`; a bare number means seconds.",
        "A secret may stand in a file instead: `JWT_SECRET_FILE=/run/secrets/jwt` is read in place of `JWT_SECRET`.",
        "",
        "This page is made from `src/llmchatbot/config.py` by `make docs`.",
    ]
    section = ""
    for field in config.fields():
        if field.section != section:
            section = field.section
            title, introduction = _SECTIONS[section]
            lines += [
                "",
                f"## {title}",
                "",
                introduction,
                "",
                "| variable | default | kind | what it is |",
                "| --- | --- | --- | --- |",
            ]
        default = _as_text(field.default)
        kind = "secret" if field.env.secret else _KINDS[field.kind]
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{field.env.name}` | {shown} | {kind} | {_cell(field.env.help)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def env_example() -> str:
    lines = [
        "# Every setting with its default. Copy this file to .env and take the '#' away from what you change.",
        "# Nothing must be set: without DB_HOST the backend brings its own PostgreSQL, and without a model the",
        "# built-in guide answers. The environment wins over this file. The same as a table: docs/settings.md",
    ]
    section = ""
    for field in config.fields():
        if field.section != section:
            section = field.section
            title, _ = _SECTIONS[section]
            lines += ["", f"# --- {title} " + "-" * (70 - len(title))]
        secret = f" May stand in a file: {field.env.name}_FILE." if field.env.secret else ""
        lines += ["", f"# {field.env.help}{secret}", f"#{field.env.name}={_as_text(field.default)}"]
    return "\n".join(lines) + "\n"


def error_table() -> str:
    lines = [
        "# Errors",
        "",
        "Every refusal is an RFC 9457 problem document (`application/problem+json`) with `type`, `title`, `status`,",
        "`detail`, `code` and `error` (the same sentence as `detail`). Validation adds `errors: [{field, message}]`.",
        "`type` is `/problems/<code>`; programs should decide by `code`, people read `detail`.",
        "",
        "An answer that fails after its message was stored ends in an `error` event of its stream instead, with",
        "`code`, `error` and `retryable`: the codes of the last table.",
        "",
        "This page is made from `src/llmchatbot/errors.py` by `make docs`.",
    ]
    for title, classes in (
        ("The request", [error for error in _problems() if error.status < 500 and not _of_model(error)]),
        ("The server", [error for error in _problems() if error.status >= 500 and not _of_model(error)]),
        ("The model", [error for error in _problems() if _of_model(error)]),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| status | code | what it says | try again as it is |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f'| {error.status} | <a id="{error.code}"></a>`{error.code}` | {_cell(error.title)} | '
            f"{'yes' if error.retryable else 'no'} |"
            for error in classes
        ]
    return "\n".join(lines) + "\n"


def _of_model(error: type[errors.AppError]) -> bool:
    return issubclass(error, errors.ModelError)


def _problems() -> list[type[errors.AppError]]:
    """Every class with a code of its own, by status and code."""
    found = {error.code: error for error in reversed(list(_subclasses(errors.AppError)))}
    return sorted(found.values(), key=lambda error: (error.status, error.code))


def _subclasses(error: type[errors.AppError]) -> Iterator[type[errors.AppError]]:
    yield error
    for subclass in error.__subclasses__():
        yield from _subclasses(subclass)


def openapi_document() -> str:
    """The document that `/openapi.json` serves. No database is needed: the routes alone make it."""
    parts = SimpleNamespace(auth=None, users=None, sessions=None)
    backend = _Unopened(settings=config.Settings(), accounts=parts)
    schema = main.describe_api(cast("Backend", backend))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _Unopened(SimpleNamespace):
    """A backend whose services are never called."""

    def __getattr__(self, name: str) -> Any:
        return None


DOCUMENTS = {
    "docs/settings.md": settings_table,
    ".env.example": env_example,
    "docs/errors.md": error_table,
    "docs/openapi.json": openapi_document,
}


def run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 when a document is out of date")
    check = parser.parse_args(argv).check
    stale = []
    for name, make in DOCUMENTS.items():
        path = ROOT / name
        text = make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"written: {name}")
    if check and stale:
        print(f"Out of date: {', '.join(stale)}. Run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
