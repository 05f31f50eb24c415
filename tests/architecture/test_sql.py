"""SQL is put together from constants alone; whatever comes from outside travels as a parameter (`$n`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "llmchatbot"
# `_execute` too: the answer log's own way to `execute_on`.
METHODS = {"fetch", "fetchrow", "fetchval", "execute", "executemany", "prepare", "cursor", "_execute"}

# (file, function): why its statement may be more than constants.
ALLOWED = {
    (
        "database/creation.py",
        "_create_through",
    ): "CREATE DATABASE takes no parameters; the name went through quote_ident",
    ("database/migrations.py", "_apply_next"): "the migrations that ship with the product",
    ("drill/invariants.py", "check"): "walks through a table of constants",
    ("repositories/answer_log.py", "_execute"): "hands on what it is given: its callers are judged",
    ("repositories/partitions.py", "create"): "DDL takes no parameters; both bounds are UUIDs made from a whole number",
}
# They hand on what they are given: the callers are judged.
FORWARDERS = {"database/pool.py", "database/dedicated.py"}
# They have no database; their methods of these names are other things.
WITHOUT_DATABASE = ("llm/", "llm_service/")


def is_constant(node: ast.expr, constants: set[str]) -> bool:
    """Whether the value is settled when the module is loaded, or is a whole number (`{n:d}`)."""
    match node:
        case ast.Name(id=name):
            verdict = name in constants
        case ast.Attribute(value=ast.Name(), attr=name):
            verdict = name.strip("_").isupper()
        case ast.FormattedValue(format_spec=ast.JoinedStr(values=[ast.Constant(value="d")])):
            verdict = True
        case _:
            parts = _parts(node)
            verdict = parts is not None and all(is_constant(part, constants) for part in parts)
    return verdict


def _parts(node: ast.expr) -> list[ast.expr] | None:
    """What decides about an expression; None when it may be anything."""
    match node:
        case ast.Constant():
            return []
        case ast.JoinedStr(values=values):
            return values
        case ast.FormattedValue(value=value) | ast.Subscript(value=value):
            return [value]
        case ast.BinOp(left=first, right=second) | ast.IfExp(body=first, orelse=second):
            return [first, second]
        case _:
            return None


def module_constants(tree: ast.Module) -> set[str]:
    """Names of the module that are written in capitals, imported ones too: nothing from outside is known by then."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases)
            case _:
                continue
    return {name for name in names if name.strip("_").isupper()}


def functions(tree: ast.Module) -> Iterator[ast.AsyncFunctionDef | ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            yield node


def local_constants(function: ast.AsyncFunctionDef | ast.FunctionDef, known: set[str]) -> set[str]:
    """Names that every assignment of the function gives a constant."""
    verdicts: dict[str, bool] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    good = is_constant(node.value, known | {name for name, ok in verdicts.items() if ok})
                    verdicts[target.id] = verdicts.get(target.id, True) and good
    parameters = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    return {name for name, ok in verdicts.items() if ok} - parameters


def offences(source: str, file: str) -> list[str]:
    tree = ast.parse(source)
    known = module_constants(tree)
    found = []
    for function in functions(tree):
        if (file, function.name) in ALLOWED:
            continue
        names = known | local_constants(function, known)
        for node in ast.walk(function):
            match node:
                case ast.Call(func=ast.Attribute(attr=method), args=[statement, *_]) if method in METHODS:
                    if not is_constant(statement, names):
                        found.append(f"{file}:{node.lineno} {function.name}: {ast.unparse(statement)[:80]}")
                case _:
                    continue
    return found


def test_sql_is_put_together_from_constants_only() -> None:
    found: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        if file not in FORWARDERS and not file.startswith(WITHOUT_DATABASE):
            found += offences(path.read_text(encoding="utf-8"), file)
    assert not found, "SQL with something else than constants in it; pass it as $n:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "statement",
    [
        "f\"SELECT * FROM chats WHERE title = '{title}'\"",
        '"SELECT " + title',
        '"SELECT %s" % title',
        '"SELECT {}".format(title)',
        "f'DROP TABLE t{title:s}'",
        "text",
    ],
)
def test_the_check_sees_what_it_is_there_for(statement: str) -> None:
    source = (
        "async def find(executor, title):\n"
        f"    text = 'SELECT ' + title\n    await executor.fetch({statement}, title)\n"
    )
    assert offences(source, "repositories/planted.py")


@pytest.mark.parametrize(
    "statement",
    ["f'SELECT {_COLUMNS} FROM chats WHERE id = $1'", "text", "_LISTS[archived]", "f'DROP TABLE t{hour:d}'"],
)
def test_the_check_lets_constants_pass(statement: str) -> None:
    source = (
        "_COLUMNS = 'id'\n_LISTS = {}\n"
        "async def find(executor, archived, hour):\n"
        f"    text = _COLUMNS if archived else 'x'\n    await executor.fetch({statement}, 1)\n"
    )
    assert not offences(source, "repositories/planted.py")


def test_every_exception_to_the_rule_is_still_needed() -> None:
    for file, function in ALLOWED:
        tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
        assert function in {found.name for found in functions(tree)}, f"{file} has no {function} any more"
