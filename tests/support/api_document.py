"""The committed OpenAPI document, as tests go through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

DOCUMENT: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_text(encoding="utf-8")
)
METHODS = {"get", "put", "post", "delete", "patch"}


class Operation(msgspec.Struct, frozen=True):
    name: str
    method: str
    path: str
    parameters: list[dict[str, Any]]
    public: bool
    body: dict[str, Any] | None
    """An example that the schema allows; None when it takes no body."""
    fields: dict[str, dict[str, Any]]

    def __str__(self) -> str:
        return self.name


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Without references and without the alternative of nothing."""
    if "$ref" in schema:
        return resolve(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for choice in schema.get("oneOf", schema.get("anyOf", ())):
        if choice.get("type") != "null":
            return resolve(choice)
    return schema


SAMPLES: dict[str, Any] = {"integer": 1, "number": 1, "boolean": True, "string": "a-proper-text"}


def example(schema: dict[str, Any]) -> Any:
    schema = resolve(schema)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema["items"])]
    if schema.get("format") == "uuid":
        return str(uuid4())
    known = schema.get("examples") or schema.get("enum") or [schema.get("minimum", SAMPLES[kind])]
    return "reject" if "reject" in schema.get("pattern", "") else known[0]


def operations() -> Iterator[Operation]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & item.keys():
            operation = item[method]
            body, fields = None, {}
            if "requestBody" in operation:
                schema = resolve(operation["requestBody"]["content"]["application/json"]["schema"])
                body = example(schema)
                fields = {name: resolve(field) for name, field in schema["properties"].items()}
            yield Operation(
                name=operation["operationId"],
                method=method.upper(),
                path=path,
                parameters=operation.get("parameters", []),
                public=operation.get("security") == [],
                body=body,
                fields=fields,
            )
