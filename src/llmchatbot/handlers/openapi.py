"""The OpenAPI 3.1 document: what the framework reads off the handlers, and here, in one place, all refusals.

Which answers an operation has follows from what it is (does it take a body, a path parameter, a token, a condition; is
it a stream); only what no signature tells stands in the tables below. tests/e2e/test_fuzz.py holds the server to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from litestar import Litestar, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig

from llmchatbot import __version__
from llmchatbot.handlers.messages import SentBody
from llmchatbot.handlers.problems import PROBLEM_JSON, Problem

Document: TypeAlias = dict[str, Any]

_DESCRIPTION = """\
A chat backend whose answers are never lost: every token is stored before it is shown, and a stream can be resumed from
any event, on any device, on any node.

Log in, send the access token as `Authorization: Bearer`, and refresh it before it expires. Every refusal is an RFC 9457
problem document; decide by its `code`. Repeat what was answered with 429 or 503 after `Retry-After`.
"""
_METHODS = ("get", "put", "post", "delete", "patch")
_OF_BODIES = (408, 413, 415, 422)
# What no signature tells.
_EXTRA: dict[str, tuple[int, ...]] = {
    "register": (403, 409),
    "login": (401,),
    "guest": (403,),
    "refresh": (401,),
    "upgradeGuest": (403, 409),
    "changePassword": (409,),
    "sendMessage": (409,),
    "continueMessage": (409,),
    "regenerateMessage": (409,),
    "streamChat": (403, 405, 409, 422),
    "streamEvents": (404,),
    "search": (422,),
    "listUsage": (422,),
}
# Read by the handler itself, which takes whatever comes; no signature tells.
_LENIENT_BODIES = {"logout": "RefreshTokenInput"}
_TAGS = {
    "auth": "Accounts and devices: register, log in and out, come in as a guest.",
    "users": "Your profile, devices and usage.",
    "chats": "Your chats.",
    "messages": "Reading and sending messages.",
    "generations": "Answers in the making: read, stop, look behind.",
    "events": "What changes, on every device.",
    "search": "Words in your chats.",
    "models": "The models that can be talked to.",
    "health": "For whoever watches or routes.",
}
_TAG_OF_OPERATION = {
    "sendMessage": "messages",
    "continueMessage": "messages",
    "regenerateMessage": "messages",
    "streamChat": "messages",
    "streamEvents": "events",
    "listModels": "models",
    "health": "health",
    "ready": "health",
}
_ANSWERS_AT_ONCE = {"sendMessage", "continueMessage", "regenerateMessage"}
_SENDS = {*_ANSWERS_AT_ONCE, "streamChat"}
_ENDS_WITH_204 = {*_SENDS, "streamGeneration"}
_TEXT = {"type": "string"}
_EVENT_ID = "018f2f6e-7c3a-7b52-9d2e-6f0c1f5d8a10.17"
_SSE = f'id: {_EVENT_ID}\ndata: {{"type":"token","content":"caf\\u00e9"}}\n\n'
_NDJSON = f'{{"id":"{_EVENT_ID}","type":"token","content":"caf\\u00e9"}}\n'
_KEY: Document = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key makes the same message once: 1 to 255 visible ASCII characters. Before `request_id`.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_PLACE: Document = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Where to go on: the `id` of the last event that was read. Wins over `last_event_id`.",
    "schema": {"type": "string", "example": _EVENT_ID},
}
_OF_SENT: Document = {
    "X-Generation-Id": {"schema": {"type": "string", "format": "uuid"}, "description": "The answer's generation."},
    "Idempotency-Replayed": {
        "schema": _TEXT,
        "description": "`true`: the key was used before, its answer has ended.",
    },
}
_HEADERS_OF_STATUS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "RFC 6750 §3."},
    429: {"Retry-After": "Seconds.", "RateLimit": "What is left.", "RateLimit-Policy": "The limit."},
    503: {"Retry-After": "Seconds."},
}


def make_document(handlers: Iterable[HTTPRouteHandler], public: Iterable[HTTPRouteHandler]) -> Document:
    """`handlers` stand below /api/v1, `public` at the root; both with nothing left to inject."""
    app = Litestar(
        route_handlers=[Router("/api/v1", route_handlers=[*handlers]), *public],
        openapi_config=OpenAPIConfig(title="llmchatbot", version=__version__, description=_DESCRIPTION),
        logging_config=None,
    )
    document: Document = app.openapi_schema.to_schema()
    known: dict[str, HTTPRouteHandler] = {
        handler.operation_id: handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler.operation_id, str)
    }
    _add_components(document)
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                _describe(operation, known[operation["operationId"]], in_path="{" in path)
    return document


def _add_components(document: Document) -> None:
    _, schemas = msgspec.json.schema_components([Problem, SentBody], ref_template="#/components/schemas/{name}")
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    components["responses"] = {_name_of(status): _problem(status) for status in _statuses()}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An access token."},
        "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "From `issueTicket`."},
    }
    document["security"] = [{"bearer": []}]
    document["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]


def _statuses() -> tuple[int, ...]:
    return (400, 401, 403, 404, 405, 406, 408, 409, 412, 413, 415, 422, 429, 503)


def _name_of(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")


def _problem(status: int) -> Document:
    answer: Document = {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if headers := _HEADERS_OF_STATUS.get(status):
        answer["headers"] = {name: {"schema": _TEXT, "description": text} for name, text in headers.items()}
    return answer


def _describe(operation: Document, handler: HTTPRouteHandler, *, in_path: bool) -> None:
    name: str = operation["operationId"]
    options = handler.opt
    if handler.parsed_data_field is not None and handler.parsed_data_field.has_default:
        operation["requestBody"]["required"] = False
    if name in _LENIENT_BODIES:
        # The empty schema: anything else is accepted, too.
        schema = {"anyOf": [{"$ref": f"#/components/schemas/{_LENIENT_BODIES[name]}"}, {}]}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}, "required": False}
    if not operation.get("tags"):
        operation["tags"] = [_TAG_OF_OPERATION.get(name, "generations")]
    if options.get("public"):
        operation["security"] = []
    elif options.get("ticket"):
        operation["security"] = [{"bearer": []}, {"ticket": []}]
    responses = operation["responses"]
    responses.pop("400", None)
    if options.get("stream") and name != "stopGeneration":
        operation.setdefault("parameters", []).extend([_KEY, _PLACE] if name in _SENDS else [_PLACE])
        _describe_stream(name, responses)
    if name == "ready":
        responses["503"] = {**responses["200"], "description": "Not now: `parts` says what stands in the way."}
    for status in sorted(_refusals(operation, options, in_path=in_path)):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{_name_of(status)}"})


def _describe_stream(name: str, responses: Document) -> None:
    stream = {
        "description": "The events, as they come (docs/streaming.md).",
        "content": {"text/event-stream": {"example": _SSE}, "application/x-ndjson": {"example": _NDJSON}},
    }
    if name in _ANSWERS_AT_ONCE:
        responses["200"] = {**stream, "description": "With `Accept: text/event-stream`: the answer as it is made."}
        responses["201"] = {
            "description": "The message is stored, and its answer is being made.",
            "headers": _OF_SENT,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SentBody"}}},
        }
    else:
        responses["200"] = stream
    if name in _SENDS:
        responses["200"]["headers"] = _OF_SENT
    if name in _ENDS_WITH_204:
        responses["204"] = {"description": "The cursor is at the end of a finished answer."}


def _refusals(operation: Document, options: dict[str, Any], *, in_path: bool) -> set[int]:
    name: str = operation["operationId"]
    public = options.get("public")
    found = {400, *_EXTRA.get(name, ())}
    if name != "health":
        found.add(503)
    if not public:
        found |= {401, 429}
    elif "auth" in operation["tags"]:
        found.add(429)
    if in_path:
        found.add(404)
    if "requestBody" in operation:
        found |= {408} if name in _LENIENT_BODIES else {*_OF_BODIES}
    if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", ())):
        found.add(412)
    if options.get("stream") and name not in {*_ANSWERS_AT_ONCE, "stopGeneration"}:
        found.add(406)
    return found
