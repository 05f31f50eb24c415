"""Soft limits are kept by review (300 lines a module, 40 a function); these are the hard ones."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "llmchatbot"
LONGEST_MODULE = 350
LONGEST_FUNCTION = 60


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_no_module_is_longer_than_350_lines() -> None:
    counts = {path.relative_to(SOURCE): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    long = [f"{path}: {lines}" for path, lines in counts.items() if lines > LONGEST_MODULE]
    assert not long, "split by what changes together:\n" + "\n".join(long)


def test_no_function_is_longer_than_60_lines() -> None:
    long = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}: {lines}")
    assert not long, "name the parts:\n" + "\n".join(long)
