"""Cookies of the web page: read and written only for requests that carry `X-Refresh-Cookie: 1`.

No form and no plain cross-site request can send that header (a page of another origin would need our leave by CORS),
and the cookies are SameSite=Strict and go to the auth routes alone: that is the whole defence against CSRF.
Clients that do not send the header never get a cookie, and cookies they send are not looked at.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request
from litestar.datastructures import Cookie
from litestar.params import HeaderParameter

from llmchatbot.handlers.clients import Caller

PATH = "/api/v1/auth"
REFRESH = "refresh_token"
DEVICE = "device"
_YEAR = 365 * 86400

RefreshCookieHeader = Annotated[
    str | None,
    HeaderParameter(
        name="X-Refresh-Cookie",
        description="`1`: keep the refresh token in an HttpOnly cookie; the body then holds an empty one.",
        required=False,
    ),
]


def wanted(header: str | None) -> bool:
    return header == "1"


def refresh_cookie(token: str, caller: Caller, *, max_age: int) -> Cookie:
    """`max_age` in seconds."""
    return _cookie(REFRESH, token, caller, max_age)


def device_cookie(proof: str, caller: Caller) -> Cookie:
    """Outlives log-out: it only tells that this browser has logged in before."""
    return _cookie(DEVICE, proof, caller, _YEAR)


def cleared_refresh_cookie(caller: Caller) -> Cookie:
    return _cookie(REFRESH, "", caller, 0)


def read(request: Request[Any, Any, Any], name: str) -> str:
    """Empty when there is none."""
    return request.cookies.get(name, "")


def _cookie(name: str, value: str, caller: Caller, max_age: int) -> Cookie:
    return Cookie(
        key=name, value=value, path=PATH, max_age=max_age, httponly=True, samesite="strict", secure=caller.secure
    )
