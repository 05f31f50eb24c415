"""Every refusal and failure this product knows: one class = one situation, one code, one status, one sentence.

AppError
├── InvalidInput                400  invalid_input
│   ├── MalformedBody           400  malformed_body
│   ├── MalformedCursor         400  malformed_cursor
│   └── TokenInUrl              400  token_in_url
├── UnprocessableInput          422  unprocessable_input
│   ├── IdempotencyKeyReused    422  idempotency_key_reused
│   └── ContextTooLong          422  context_too_long
├── Unauthenticated             401  unauthenticated
│   ├── InvalidToken            401  invalid_token
│   ├── BadCredentials          401  bad_credentials
│   └── InvalidRefreshToken     401  invalid_refresh_token
├── Forbidden                   403  forbidden
├── NotFound                    404  not_found
│   └── UnknownModel            404  unknown_model
├── MethodNotAllowed            405  method_not_allowed
├── NotAcceptable               406  not_acceptable
├── BodyTimeout                 408  body_timeout
├── HeadTimeout                 408  head_timeout
├── Conflict                    409  conflict
│   ├── EmailTaken              409  email_taken
│   ├── ChatArchived            409  chat_archived
│   ├── ChatBusy                409  chat_busy
│   └── NotContinuable          409  not_continuable
├── PreconditionFailed          412  precondition_failed
├── BodyTooLarge                413  body_too_large
├── UnsupportedMediaType        415  unsupported_media_type
├── RateLimited                 429  rate_limited
│   └── TooManyGenerations      429  too_many_generations
├── HeadTooLarge                431  head_too_large
├── Unavailable                 503  unavailable
│   ├── DatabaseUnavailable     503  database_unavailable
│   ├── Draining                503  draining
│   └── RequestTimeout          503  request_timeout
├── InternalError               500  internal_error
└── ModelError                  (ends a generation: an `error` event, never an HTTP status after the commit)
    ├── ModelUnavailable        503  model_unavailable      operator or provider: refused, unreachable, 5xx
    ├── ModelMisconfigured      503  model_misconfigured    operator: key missing, wrong or expired
    ├── ModelOverloaded         503  model_overloaded       provider: 429, quota, overloaded, our own queue is full
    ├── ModelTimeout            503  model_timeout          provider: connect, first byte, between chunks, whole
    ├── ModelProtocolError      502  model_protocol_error   provider: garbage, HTML, a line beyond the limit
    ├── ModelInterrupted        502  model_interrupted      provider: the stream ended without its end record
    ├── ModelRefused            422  model_refused          user: content filter or a refused request
    └── AnswerTooLong           502  answer_too_long        limit: 1 MiB of text, or ten minutes
StartupError                    ends the process with a sentence that says what to type
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class FieldError(dict[str, str]):
    """One entry of the `errors` member: which field, and what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field=field, message=message)


class AppError(Exception):
    """A situation that the person or program at the other end is told about.

    `detail` must be safe to show: no message text, no secret, no upstream body.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Something went wrong on our side."
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.detail = detail or self.title
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        super().__init__(self.detail)


class InvalidInput(AppError):
    status, code, title = 400, "invalid_input", "The request is not valid."


class MalformedBody(InvalidInput):
    code, title = "malformed_body", "The body is not valid JSON."


class MalformedCursor(InvalidInput):
    code, title = "malformed_cursor", "The cursor is not one of ours; leave it out to start from the beginning."


class TokenInUrl(InvalidInput):
    code, title = "token_in_url", "A token does not belong in a URL; send it as 'Authorization: Bearer'."


class UnprocessableInput(AppError):
    status, code, title = 422, "unprocessable_input", "The request cannot be processed as it is."


class IdempotencyKeyReused(UnprocessableInput):
    code, title = "idempotency_key_reused", "This idempotency key was used for another request; use a new key."


class ContextTooLong(UnprocessableInput):
    code, title = "context_too_long", "The message alone does not fit the model's context."


class Unauthenticated(AppError):
    status, code, title = 401, "unauthenticated", "Log in first: send 'Authorization: Bearer <access token>'."


class InvalidToken(Unauthenticated):
    code, title = "invalid_token", "The access token is not valid any more; refresh it or log in again."


class BadCredentials(Unauthenticated):
    code, title = "bad_credentials", "E-mail or password is wrong."


class InvalidRefreshToken(Unauthenticated):
    code, title = "invalid_refresh_token", "The refresh token is not valid any more; log in again."


class Forbidden(AppError):
    status, code, title = 403, "forbidden", "This is not allowed."


class NotFound(AppError):
    status, code, title = 404, "not_found", "There is nothing here."


class UnknownModel(NotFound):
    code, title = "unknown_model", "There is no model of this name."


class MethodNotAllowed(AppError):
    status, code, title = 405, "method_not_allowed", "This address does not take this method."


class NotAcceptable(AppError):
    status, code, title = 406, "not_acceptable", "None of the accepted formats can be sent."


class BodyTimeout(AppError):
    status, code, title = 408, "body_timeout", "The body did not arrive in time; send it again."
    retryable = True


class HeadTimeout(AppError):
    status, code, title = 408, "head_timeout", "The head of the request did not arrive in time; send it again."
    retryable = True


class Conflict(AppError):
    status, code, title = 409, "conflict", "The request does not fit the present state."


class EmailTaken(Conflict):
    code, title = "email_taken", "An account with this e-mail exists already; log in, or use another address."


class ChatArchived(Conflict):
    code, title = "chat_archived", "The chat is archived; restore it first."


class ChatBusy(Conflict):
    code, title = "chat_busy", "An answer is being written in this chat; follow it, stop it, or send if_busy=interrupt."


class NotContinuable(Conflict):
    code, title = "not_continuable", "This answer is complete, so there is nothing to continue."


class PreconditionFailed(AppError):
    status, code, title = 412, "precondition_failed", "It was changed in the meantime; read it again and repeat."


class BodyTooLarge(AppError):
    status, code, title = 413, "body_too_large", "The body is larger than 256 KB."


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported_media_type", "Send JSON: 'Content-Type: application/json'."


class RateLimited(AppError):
    status, code, title = 429, "rate_limited", "Too many requests; wait and try again."
    retryable = True

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, headers: Mapping[str, str] | None = None):
        """`retry_after` in whole seconds, as the header wants it (RFC 9110 §10.2.3)."""
        super().__init__(detail, headers={**(headers or {}), "Retry-After": str(max(1, retry_after))})


class TooManyGenerations(RateLimited):
    code, title = "too_many_generations", "Too many answers are being written for you; wait for one to end or stop it."


class HeadTooLarge(AppError):
    status, code, title = 431, "head_too_large", "The head of the request is larger than 16 KB; send fewer headers."


class Unavailable(AppError):
    status, code, title = 503, "unavailable", "Not available right now; try again shortly."
    retryable = True

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, headers: Mapping[str, str] | None = None):
        """`retry_after` in whole seconds."""
        super().__init__(detail, headers={**(headers or {}), "Retry-After": str(max(1, retry_after))})


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "The database does not answer right now; try again shortly."


class Draining(Unavailable):
    code, title = "draining", "This process is shutting down; try again, another one takes over."

    def __init__(self) -> None:
        # A repetition over the same connection would come back here.
        super().__init__(headers={"Connection": "close"})


class RequestTimeout(Unavailable):
    code, title = "request_timeout", "The request took too long; try again."


class InternalError(AppError):
    pass


class ModelError(AppError):
    """What ends a generation without success. `detail` never repeats what the upstream said."""

    status, code, title = 502, "model_error", "The model could not answer."


class ModelUnavailable(ModelError):
    status, code, title, retryable = 503, "model_unavailable", "The model cannot be reached right now.", True


class ModelMisconfigured(ModelError):
    status, code, title = 503, "model_misconfigured", "The model is not set up rightly; tell the operator."


class ModelOverloaded(ModelError):
    status, code, title, retryable = 503, "model_overloaded", "The model is overloaded; try again shortly.", True


class ModelTimeout(ModelError):
    status, code, title, retryable = 503, "model_timeout", "The model did not answer in time.", True


class ModelProtocolError(ModelError):
    code, title, retryable = "model_protocol_error", "The model's service sent something that cannot be read.", True


class ModelInterrupted(ModelError):
    code, title, retryable = "model_interrupted", "The answer broke off before its end.", True


class ModelRefused(ModelError):
    status, code, title = 422, "model_refused", "The model refused this request."


class AnswerTooLong(ModelError):
    code, title = "answer_too_long", "The answer reached the limit and was cut."


class StartupError(Exception):
    """The process cannot start. The text is shown as it is and says what to type."""
