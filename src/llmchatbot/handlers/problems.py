"""Every refusal is one RFC 9457 problem document that also has the string member `error` of the first backend."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import Send

from llmchatbot.errors import (
    AppError,
    BodyTooLarge,
    FieldError,
    InternalError,
    InvalidInput,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    UnsupportedMediaType,
)
from llmchatbot.handlers.inputs import VISIBLE
from llmchatbot.observability import describe

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
_BY_STATUS: dict[int, type[AppError]] = {
    error.status: error
    for error in (InvalidInput, Unauthenticated, NotFound, MethodNotAllowed, BodyTooLarge, UnsupportedMediaType)
}
_MISSING_PARAMETER = re.compile(r"Missing required \w+ parameter '(?P<name>[^']+)'")
_BLANK = f"Expected `str` matching regex {VISIBLE!r}"
_PATH_OF_MSGSPEC = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class ProblemField(msgspec.Struct, kw_only=True):
    field: str
    message: str


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A refusal (RFC 9457); some codes have more members. `error` is `detail` again, for older clients."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: str
    errors: list[ProblemField] = []


def problem_body(error: AppError) -> dict[str, Any]:
    """`type` is a stable relative reference, explained in docs/errors.md."""
    body: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "error": error.detail,
    }
    if error.errors:
        body["errors"] = error.errors
    return {**error.extra, **body}


def problem_headers(error: AppError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store", **error.headers}
    if isinstance(error, Unauthenticated):
        # RFC 6750 §3: no error code when no credentials came at all.
        challenge = 'Bearer realm="llmchatbot"'
        headers["WWW-Authenticate"] = (
            f'{challenge}, error="invalid_token"' if isinstance(error, InvalidToken) else challenge
        )
    return headers


def render(error: AppError) -> Response[bytes]:
    return Response(
        content=msgspec.json.encode(problem_body(error)),
        status_code=error.status,
        media_type=MediaType.TEXT if error.status == HTTPStatus.NO_CONTENT else PROBLEM_JSON,
        headers=problem_headers(error),
    )


def plain_parts(error: AppError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of the same document, for whoever has no framework around it."""
    body = msgspec.json.encode(problem_body(error))
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem_headers(error).items()]
    return [*headers, (b"content-type", PROBLEM_JSON.encode())], body


async def plain_answer(send: Send, error: AppError) -> None:
    headers, body = plain_parts(error)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def handle_app_error(request: Request[Any, Any, Any], error: AppError) -> Response[bytes]:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("refused with %s %s: %s", error.status, error.code, describe(error.__cause__ or error))
    return render(error)


def handle_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals: no route, wrong method, a body that does not fit."""
    return render(translate(error))


def translate(error: HTTPException) -> AppError:
    if isinstance(error, ValidationException):
        return _invalid(error)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # Nothing but the Host header is left for the framework to find fault with: bodies are read by `inputs`.
        return InvalidInput("The Host header is not valid.")
    known = _BY_STATUS.get(error.status_code, InternalError)
    return known(headers={key: value for key, value in (error.headers or {}).items() if key.lower() == "allow"})


def _invalid(error: ValidationException) -> AppError:
    fields = [_field_error(entry) for entry in error.extra or [] if isinstance(entry, dict)]
    if missing := _MISSING_PARAMETER.match(error.detail):
        fields = [FieldError(missing["name"], "is missing")]
    if not fields:
        return InvalidInput(errors=[FieldError("body", "is not what this address takes")])
    summary = "; ".join(f"{entry['field']}: {entry['message']}" for entry in fields)
    return InvalidInput(f"The request is not valid. {summary}", errors=fields)


def _field_error(entry: dict[str, Any]) -> FieldError:
    message = str(entry.get("message", "is not valid"))
    found = _PATH_OF_MSGSPEC.search(message)
    field = str(entry.get("key") or (found and found["path"]) or "body")
    if (unknown := re.search(r"unknown field `([^`]+)`", message)) or (
        unknown := re.search(r"missing required field `([^`]+)`", message)
    ):
        field = unknown[1]
    message = message.replace(_BLANK, "must not be blank")
    # A pattern is for programs; they find it in the OpenAPI document.
    message = re.sub(r"Expected `str` matching regex .*", "has the wrong form", _PATH_OF_MSGSPEC.sub("", message))
    return FieldError(field, message)


def handle_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A bug of ours: logged with its trace, shown without."""
    logger.error("unexpected error on %s", request.scope.get("path_template", ""), exc_info=error)
    return render(InternalError())
