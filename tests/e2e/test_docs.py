"""The documentation that the server carries says what the server does, and needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nodes import Node

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    return loaded


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from (operation for method, operation in item.items() if method in METHODS)


async def test_the_server_serves_the_committed_document(node: Node, document: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{node.base}/openapi.json") as response:
            assert response.status == 200
            assert response.content_type == "application/json"
            assert await response.json() == document
            etag = response.headers["ETag"]
        async with session.get(f"{node.base}/openapi.json", headers={"If-None-Match": etag}) as response:
            assert response.status == 304


def test_the_document_is_openapi_3_1_with_a_bearer_scheme(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["security"] == [{"bearer": []}]


def test_every_operation_documents_its_refusals_as_problem_documents(document: dict[str, Any]) -> None:
    for operation in operations(document):
        name, responses = operation["operationId"], operation["responses"]
        for status, response in responses.items():
            if int(status) >= 400 and (name, status) != ("ready", "503"):
                assert response["$ref"].startswith("#/components/responses/"), (name, status)
        wanted: set[str] = set()
        if name != "logout":  # which never refuses (protocol §7)
            wanted = {"400", *({"408", "413", "415", "422"} if "requestBody" in operation else ())}
        if operation.get("security") != []:
            wanted |= {"401", "429", "503"}
        if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
            wanted.add("404")
        if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", ())):
            wanted.add("412")
        assert wanted <= responses.keys(), name
    for response in document["components"]["responses"].values():
        assert [*response["content"]] == ["application/problem+json"]


def test_streams_document_both_formats(document: dict[str, Any]) -> None:
    streams = {
        operation["operationId"]: operation["responses"]
        for operation in operations(document)
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }
    assert {"streamChat", "streamGeneration", "streamEvents", "sendMessage"} <= streams.keys()
    assert all("application/x-ndjson" in responses["200"]["content"] for responses in streams.values())
    assert "204" in streams["streamGeneration"]


async def test_the_page_takes_everything_from_this_server(node: Node) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{node.base}/docs") as response:
            assert response.status == 200
            policy = response.headers["Content-Security-Policy"]
            page = await response.text()
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert not re.search(r"https?://", policy)
        addresses = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page)
        assert addresses
        for address in addresses:
            assert address.startswith("/"), address
            async with session.get(node.base + address) as response:
                assert response.status == 200, address
