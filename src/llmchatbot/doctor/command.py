"""`llmchatbot doctor`: is everything this program needs there, and if not, what to type. It changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping

from llmchatbot import config
from llmchatbot.config import Settings
from llmchatbot.doctor.database import examine_embedded, examine_external
from llmchatbot.doctor.here import examine_data_dir, examine_port, examine_settings
from llmchatbot.doctor.rows import Row
from llmchatbot.doctor.services import Ask, examine_models, examine_redis
from llmchatbot.llm.gateway import ModelGateway


async def run(
    settings: Settings, *, write: Callable[[str], object] = sys.stdout.write, ask: Ask = ModelGateway.examine
) -> int:
    """Print the table; 0 when nothing fails, else 1."""
    rows = await examine(settings, ask=ask)
    write(render(rows))
    return int(any(row.status == "fail" for row in rows))


async def examine(
    settings: Settings, environment: Mapping[str, str] | None = None, *, ask: Ask = ModelGateway.examine
) -> list[Row]:
    """All rows in the order in which a start would meet them. `environment` holds the keys that a models file names."""
    if environment is None:
        environment = config.read_environment()
    parts: list[Callable[[Settings], Awaitable[list[Row]]]] = [
        examine_settings,
        examine_data_dir,
        examine_port,
        examine_external if not settings.database.embedded else examine_embedded,
        examine_redis,
        lambda settings: examine_models(settings, environment, ask),
    ]
    return [row for examine_part in parts for row in await examine_part(settings)]


def render(rows: list[Row]) -> str:
    width = max(len(row.subject) for row in rows)
    lines = []
    for row in rows:
        first, *more = row.detail.splitlines() or [""]
        lines.append(f"{row.status:<4}  {row.subject:<{width}}  {first}")
        indent = " " * (width + 8)
        lines += [indent + line for line in more]
        lines += [f"{indent}→ {line}" for line in row.advice.splitlines()]
    count = {status: sum(row.status == status for row in rows) for status in ("ok", "warn", "fail")}
    lines.append(f"\n{count['ok']} ok, {count['warn']} warnings, {count['fail']} failures")
    return "\n".join(lines) + "\n"
