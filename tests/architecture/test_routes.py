"""Every route can be found, named and understood from the OpenAPI document alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}
# What was asked for, and what the first web client calls.
PROMISED = {
    "post /api/v1/auth/register",
    "post /api/v1/auth/login",
    "post /api/v1/auth/refresh",
    "post /api/v1/auth/logout",
    "post /api/v1/auth/guest",
    "get /api/v1/users/me",
    "put /api/v1/users/me",
    "get /api/v1/chats",
    "post /api/v1/chats",
    "get /api/v1/chats/{}",
    "put /api/v1/chats/{}",
    "delete /api/v1/chats/{}",
    "post /api/v1/chats/{}/restore",
    "delete /api/v1/chats/{}/permanent",
    "post /api/v1/chats/restore",
    "post /api/v1/chats/delete",
    "get /api/v1/stream/chat/{}",
    "get /health",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The committed one; test_documents.py compares it with the code."""
    loaded: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    return loaded


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield f"{method} {path}", operation


def test_every_route_has_an_operation_id_and_a_summary(document: dict[str, Any]) -> None:
    nameless = [
        name
        for name, operation in operations(document)
        # Litestar makes long names up where none was given: ApiV1ChatsListChats.
        if operation.get("operationId", "Api")[:3] == "Api" or not operation.get("summary")
    ]
    assert not nameless


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    counts = Counter(operation["operationId"] for _, operation in operations(document))
    assert [name for name, count in counts.items() if count > 1] == []


def test_the_routes_that_were_asked_for_are_there(document: dict[str, Any]) -> None:
    there = {
        "/".join("{}" if part.startswith("{") else part for part in name.split("/")) for name, _ in operations(document)
    }
    assert PROMISED - there == set()
