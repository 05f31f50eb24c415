"""docs/protocol.md names the tests that prove each rule: they exist, and whatever cites a rule finds it there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (?!---)(.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(test_\w+)`")
_CITED = re.compile(r"\b[Pp]rotocol(?:\.md)? (§\d+(?:\.\d)?(?:(?:, | and )§\d+(?:\.\d)?)*)")


def count_tests() -> dict[str, int]:
    """By name, how often."""
    found: dict[str, int] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[node.name] = found.get(node.name, 0) + 1
    return found


TESTS = count_tests()


def rules() -> Iterator[tuple[str, list[str]]]:
    for row in _ROW.findall(PAGE):
        *told, proof = row.split(" | ")
        if proof != "proven by":
            yield " | ".join(told), _TEST.findall(proof)


def cited() -> Iterator[tuple[str, str]]:
    for folder, kind in (("src", "*.py"), ("tests", "*.py"), ("docs", "*.md")):
        for path in sorted((ROOT / folder).rglob(kind)):
            for group in _CITED.findall(path.read_text(encoding="utf-8")):
                for place in re.findall(r"\d+(?:\.\d)?", group):
                    yield path.relative_to(ROOT).as_posix(), place


def test_every_rule_names_a_test() -> None:
    assert len(list(rules())) > 100
    assert not [rule for rule, names in rules() if not names]


def test_every_test_that_proves_a_rule_exists() -> None:
    missing = [f"{rule}: {name}" for rule, names in rules() for name in names if name not in TESTS]
    assert not missing, "renamed or gone; the rule needs its proof:\n" + "\n".join(missing)


@pytest.mark.parametrize("fault", range(1, 12))
def test_every_fault_of_the_first_backend_has_tests_that_bear_its_number(fault: int) -> None:
    bearing = {name for name in TESTS if name.startswith(f"test_fault_{fault}_")}
    assert bearing
    (named,) = (set(names) for rule, names in rules() if rule.startswith(f"**{fault}** "))
    assert named & bearing


@pytest.mark.parametrize("invariant", [f"I{number}" for number in range(1, 9)])
def test_every_invariant_is_there(invariant: str) -> None:
    assert any(rule.startswith(f"**{invariant}** ") for rule, _ in rules())


def test_every_place_that_is_cited_is_there() -> None:
    places = set(re.findall(r"^## (\d+)\.", PAGE, re.MULTILINE)) | set(re.findall(r"\*\*(\d\.\d)\*\*", PAGE))
    assert {place for _, place in cited()} >= {"2", "2.3", "6", "7", "8"}, "the pattern has become blind"
    lost = [f"{path}: §{place}" for path, place in cited() if place not in places]
    assert not lost, "\n".join(lost)
