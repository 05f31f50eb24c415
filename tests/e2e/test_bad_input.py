"""Every field of every body in the OpenAPI document, with what must not come in: 4xx, and the field is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from api_document import Operation, operations, resolve
from nodes import Node, Person

NUL, LONE = "\x00", "\ud800"
DEEP = "[" * 1000 + "]" * 1000
DEEPER = "[" * 120_000


# Log-out takes whatever comes: tests/handlers/test_auth.py.
OPERATIONS = [operation for operation in operations() if operation.body is not None and operation.name != "logout"]
ALL = pytest.mark.parametrize("operation", OPERATIONS, ids=str)


def texts(value: Any, path: str = "") -> Iterator[str]:
    """Where texts stand in an example."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from texts(inner, f"{path}.{index}")


def replaced(body: Any, path: str, value: Any) -> Any:
    first, _, rest = path.partition(".")
    copy = list(body) if isinstance(body, list) else dict(body)
    key: Any = int(first) if isinstance(body, list) else first
    copy[key] = replaced(copy[key], rest, value) if rest else value
    return copy


class Asker:
    def __init__(self, person: Person, chat: str) -> None:
        self.person = person
        self.chat = chat

    async def ask(self, operation: Operation, data: bytes | str) -> tuple[int, dict[str, Any]]:
        path = operation.path.replace("{chat_id}", self.chat).replace("{message_id}", self.chat)
        async with self.person.session.request(
            operation.method,
            self.person.node.base + path,
            data=data.encode() if isinstance(data, str) else data,
            headers=self.person.headers(**{"Content-Type": "application/json"}),
        ) as response:
            assert response.content_type == "application/problem+json", (response.status, await response.text())
            problem: dict[str, Any] = await response.json(content_type=None)
            assert problem["status"] == response.status
            assert {"type", "title", "detail", "code", "error"} <= problem.keys()
            return response.status, problem


@pytest.fixture
async def asker(person: Person) -> Asker:
    return Asker(person, await person.chat())


def named(problem: dict[str, Any]) -> set[str]:
    """The outermost names of the fields that a refusal is about."""
    return {entry["field"].split(".")[0].split("[")[0] for entry in problem.get("errors", [])}


def test_there_are_bodies_to_try() -> None:
    assert len(OPERATIONS) >= 12
    assert {"register", "login", "sendMessage", "updateChat"} <= {operation.name for operation in OPERATIONS}


@ALL
async def test_nul_and_lone_surrogates_are_refused_with_the_field(operation: Operation, asker: Asker) -> None:
    assert operation.body is not None
    for path in texts(operation.body):
        status, problem = await asker.ask(operation, json.dumps(replaced(operation.body, path, f"a{NUL}b")))
        assert status in {400, 422}, (path, problem)
        assert path.split(".")[0] in named(problem), (path, problem)
        # json.dumps writes the escape, as a client in JavaScript does.
        status, problem = await asker.ask(operation, json.dumps(replaced(operation.body, path, f"a{LONE}b")))
        assert status == 422, (path, problem)
        assert named(problem), problem


@ALL
async def test_wrong_types_are_refused_with_the_field(operation: Operation, asker: Asker) -> None:
    for name, schema in operation.fields.items():
        kind = schema.get("type")
        wrong: list[Any] = [{"a": 1}, [[1]], True, 12] if kind == "string" else [{"a": 1}, "text", True]
        if kind == "object":
            wrong[0] = {"no such parameter": 1}
        for value in wrong:
            status, problem = await asker.ask(operation, json.dumps({**(operation.body or {}), name: value}))
            assert status == 400, (name, value, problem)
            assert name in named(problem) or "no such parameter" in named(problem), (name, value, problem)


@ALL
async def test_nested_too_deeply_is_refused(operation: Operation, asker: Asker) -> None:
    name = next(iter(operation.fields))
    for deep in (DEEP, f'{{"{name}":{DEEP}}}', '{"a":' * 500 + "1" + "}" * 500, DEEPER, f'{{"{name}":{DEEPER}'):
        status, problem = await asker.ask(operation, deep)
        assert status == 400, (deep[:20], problem)
        assert named(problem), problem


@ALL
async def test_huge_numbers_are_refused(operation: Operation, asker: Asker) -> None:
    for name, schema in operation.fields.items():
        for number in ("1e999", "-1e999", "9" * 400, "123456789012345678901234567890", "1" * 5000):
            inner = resolve(schema)
            value = number
            if inner.get("type") == "object":
                value = "{" + ",".join(f'"{key}":{number}' for key in inner.get("properties", {})) + "}"
            status, problem = await asker.ask(operation, f'{{"{name}":{value}}}')
            assert status == 400, (name, number, problem)
            assert named(problem), problem


@ALL
async def test_what_is_no_json_is_refused(operation: Operation, asker: Asker) -> None:
    for data in (b"{", b"nonsense", b'{"a":NaN}', b'"\xff"', b"\xef\xbb\xbf{}", b"{'a':1}", b"\x00", b'{"a":1}x'):
        status, problem = await asker.ask(operation, data)
        assert (status, problem["code"]) == (400, "malformed_body"), (data, problem)
        assert named(problem) == {"body"}


@ALL
async def test_bodies_that_are_no_object_are_refused(operation: Operation, asker: Asker) -> None:
    for data in ("[]", '"text"', "12", "true"):
        status, problem = await asker.ask(operation, data)
        assert status == 400, (data, problem)


@ALL
async def test_unknown_fields_are_refused_by_name(operation: Operation, asker: Asker) -> None:
    status, problem = await asker.ask(operation, json.dumps({**(operation.body or {}), "no_such_field": 1}))
    assert status == 400
    assert named(problem) == {"no_such_field"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=1e3", "limit"),
        ("limit=%00", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("include_archived=perhaps", "include_archived"),
        ("cursor=%00", "cursor"),
        ("cursor=" + "A" * 65, "cursor"),
        ("cursor=%ED%A0%80", "cursor"),
    ],
)
async def test_bad_queries_are_refused_with_the_field(person: Person, query: str, field: str) -> None:
    status, problem = await person.request("GET", f"/api/v1/chats?{query}")
    assert status in {400, 422}
    assert named(problem) == {field}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "message"),
        ("message=", "message"),
        ("message=%20%0A", "message"),
        ("message=%00", "message"),
        ("message=" + "a" * 2_001, "message"),
        ("message=hello&if_busy=perhaps", "if_busy"),
        ("message=hello&request_id=%20", "request_id"),
        ("message=hello&request_id=" + "k" * 256, "request_id"),
        ("message=hello&wait=soon", "wait"),
        ("message=hello&last_event_id=7", "last_event_id"),
    ],
)
async def test_bad_sends_by_get_are_refused_with_the_field_and_store_nothing(
    person: Person, query: str, field: str
) -> None:
    chat = await person.chat()
    status, problem = await person.request("GET", f"/api/v1/stream/chat/{chat}?{query}")
    assert status in {400, 422}
    assert named(problem) == {field}
    assert await person.messages(chat) == []


async def test_ids_that_are_none_find_nothing(person: Person) -> None:
    for identifier in ("1", "null", "%00", "..%2f..", "0" * 36, f"{uuid4()}x"):
        status, problem = await person.request("GET", f"/api/v1/chats/{identifier}")
        assert status in {400, 404}, identifier
        assert problem["code"]


async def test_none_of_this_was_a_fault_of_ours(node: Node) -> None:
    assert "Traceback" not in node.log()
