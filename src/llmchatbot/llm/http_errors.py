"""What an upstream's HTTP refusal means for us, and who must act. Nothing an upstream wrote is ever repeated."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from llmchatbot.errors import (
    ModelError,
    ModelMisconfigured,
    ModelOverloaded,
    ModelProtocolError,
    ModelRefused,
    ModelUnavailable,
)
from llmchatbot.llm.endpoint import Endpoint

_log = logging.getLogger(__name__)

# Searched for in lower case in the whole refusal; providers differ in where they put the code and agree on the words.
_CONTEXT = re.compile(
    r"context[_ ](length|size|window)|maximum context|prompt is too long|too many tokens|exceed_context"
    r"|input token count|maximum number of tokens|input is too long|reduce the length"
)
_KEY = re.compile(r"api[_ ]key[_ ](not valid|invalid)|invalid[_ ]api[_ ]key|incorrect api key|api_key_invalid")
_QUOTA = re.compile(r"insufficient[_ ](quota|balance|funds|credit)|exceeded your current quota|credit balance|billing")
_MODEL = re.compile(
    r"model[_ ]not[_ ]found|model .{0,80}(does not exist|not found|is not found)|unknown model|invalid model"
)
_OVERLOADED = re.compile(r"overloaded|rate[_ ]limit|resource[_ ]exhausted|too many requests")
_UNAVAILABLE = re.compile(r"server_error|internal|unavailable|api_error|timeout|bad gateway")
_FILTER = re.compile(r"content[_ ](filter|policy|management)|safety|moderation|blocked")

RETRY_AFTER = re.compile(r"\d{1,6}")


def refusal(endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """Translate an HTTP answer that is not a stream. `body` may be cut; only known words are looked for in it."""
    _log.warning("upstream refused host=%s status=%d bytes=%d", endpoint.host, status, len(body))
    text = body.decode("utf-8", "replace").lower()
    where = f"(status {status})"
    extra = {"upstream_status": status}
    if status < 300:
        return in_band(endpoint, body)
    if status < 400:
        return ModelMisconfigured(f"{endpoint.url_setting} answers with a redirect {where}; give the final address.")
    return (
        _operator(endpoint, status, text, where)
        or _capacity(status, headers, text, where, extra)
        or _bad_request(text, where, extra)
    )


def _operator(endpoint: Endpoint, status: int, text: str, where: str) -> ModelError | None:
    """What only the operator can mend: key, address, money."""
    if status in {401, 403} or (status == 400 and _KEY.search(text)):
        return _key_refused(endpoint, status)
    if status == 404:
        return _not_found(endpoint)
    if status == 402 or (status in {400, 429} and _QUOTA.search(text)):
        return ModelOverloaded(f"The quota of {_key_name(endpoint)} is used up {where}.", extra={"quota": True})
    return None


def _capacity(
    status: int, headers: Mapping[str, str], text: str, where: str, extra: dict[str, Any]
) -> ModelError | None:
    """What passes by itself."""
    if status in {429, 529} or (status == 503 and _OVERLOADED.search(text)):
        return _overloaded(where, headers, extra)
    if status >= 500 or status in {408, 409, 425}:
        return ModelUnavailable(f"The model's service has a failure {where}.", extra=extra)
    return None


def in_band(endpoint: Endpoint, body: bytes) -> ModelError:
    """Translate a page or an error object that came with status 200, or an error record in the middle of a stream."""
    text = body[:65536].decode("utf-8", "replace").lower()
    if text.lstrip().startswith("<"):
        return ModelProtocolError(
            f"{endpoint.url_setting} answered with a web page instead of a model's stream; check the address."
        )
    checks: list[tuple[re.Pattern[str], ModelError]] = [
        (_KEY, _key_refused(endpoint, 401)),
        (_CONTEXT, _context("")),
        (_QUOTA, ModelOverloaded(f"The quota of {_key_name(endpoint)} is used up.", extra={"quota": True})),
        (_MODEL, _not_found(endpoint)),
        (_OVERLOADED, ModelOverloaded("The model's service is overloaded.")),
        (_FILTER, ModelRefused("The model's provider refused this conversation.")),
        (_UNAVAILABLE, ModelUnavailable("The model's service reported a failure.")),
    ]
    for pattern, error in checks:
        if pattern.search(text):
            return error
    return ModelUnavailable("The model's service reported an error.")


def in_band_object(endpoint: Endpoint, error: Any) -> ModelError:
    """As `in_band`, for an error that was decoded already (any JSON value)."""
    return in_band(endpoint, json.dumps(error, default=str).encode())


def _key_name(endpoint: Endpoint) -> str:
    return endpoint.key_setting or endpoint.url_setting


def _key_refused(endpoint: Endpoint, status: int) -> ModelMisconfigured:
    where = f"(status {status})"
    if not endpoint.key:
        hint = f"set {endpoint.key_setting}" if endpoint.key_setting else f"{endpoint.url_setting} has none"
        return ModelMisconfigured(f"The model's service wants a key {where}; {hint}.")
    return ModelMisconfigured(f"The key in {endpoint.key_setting} was refused: wrong, expired or not allowed {where}.")


def _not_found(endpoint: Endpoint) -> ModelMisconfigured:
    return ModelMisconfigured(
        f"The model or address was not found (status 404); check {endpoint.url_setting} and the model's name."
    )


def _overloaded(where: str, headers: Mapping[str, str], extra: dict[str, Any]) -> ModelOverloaded:
    after = headers.get("retry-after", "")
    if RETRY_AFTER.fullmatch(after):
        extra = {**extra, "retry_after": int(after)}
    return ModelOverloaded(f"The model's service is overloaded or limits our rate {where}.", extra=extra)


def _context(where: str) -> ModelRefused:
    return ModelRefused(
        f"The conversation is longer than the model takes{where}; start a new chat or send less.",
        extra={"reason": "context_too_long"},
    )


def _bad_request(text: str, where: str, extra: dict[str, Any]) -> ModelError:
    if _CONTEXT.search(text):
        return _context(f" {where}")
    if _MODEL.search(text):
        return ModelMisconfigured(f"The provider does not know the model's name {where}; check the model's entry.")
    if _FILTER.search(text):
        return ModelRefused(f"The model's provider refused this conversation {where}.", extra=extra)
    return ModelRefused(f"The model's service refused the request {where}.", extra=extra)
