"""Each promise names what shows it, and that exists."""

from __future__ import annotations

import re
from pathlib import Path

from llmchatbot.drill.plans import PLANS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_plan_is_named_and_every_line_of_the_scorecard_is_shown() -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", PAGE))
    assert {plan.name for plan in PLANS} <= named
    lines = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in lines] == list(range(1, 19))
    assert all(shown.strip() for _, shown in lines)


def test_every_plan_stands_in_the_page_of_the_drill() -> None:
    table = (ROOT / "docs" / "drill.md").read_text(encoding="utf-8")
    for plan in PLANS:
        assert f"| `{plan.name}` |" in table
