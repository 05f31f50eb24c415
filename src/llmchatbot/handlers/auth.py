"""Registering, logging in and out, guests: `/api/v1/auth`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import JSONBody

from llmchatbot.errors import Unauthenticated
from llmchatbot.handlers import cookies
from llmchatbot.handlers.authentication import PUBLIC, bearer_token
from llmchatbot.handlers.clients import Caller
from llmchatbot.handlers.cookies import RefreshCookieHeader
from llmchatbot.handlers.inputs import Input
from llmchatbot.models.device_sessions import Grant
from llmchatbot.models.principals import Principal
from llmchatbot.services.auth import AuthService, NewAccount

NO_STORE = {"Cache-Control": "no-store"}
TAGS = ["auth"]

# NUL passes the patterns on purpose: it has its own refusal (422), the same for every text.
Email = Annotated[
    str,
    msgspec.Meta(
        max_length=254,
        pattern=r"^[^@\s\x01-\x1f\x7f]+@[^@\s\x01-\x1f\x7f]+$(?!\n)",
        description="Upper and lower case are the same.",
        examples=["ada@example.com"],
    ),
]
Username = Annotated[
    str,
    msgspec.Meta(
        min_length=3,
        max_length=100,
        pattern=r"^[^\s\x01-\x1f\x7f][^\x01-\x1f\x7f]*[^\s\x01-\x1f\x7f]$(?!\n)",
        description="No control characters, no space at either end.",
        examples=["Ada"],
    ),
]
NewPassword = Annotated[
    str,
    msgspec.Meta(
        min_length=8, max_length=256, description="Not one of the common ones.", examples=["correct horse battery"]
    ),
]
# For log-in any length up to the longest: what is too short is simply wrong.
Password = Annotated[str, msgspec.Meta(max_length=256)]


class RegisterInput(Input, frozen=True, kw_only=True):
    email: Email
    username: Username
    password: NewPassword


class LoginInput(Input, frozen=True, kw_only=True):
    email: Annotated[str, msgspec.Meta(max_length=254)]
    password: Password


class RefreshTokenInput(Input, frozen=True, kw_only=True):
    refresh_token: Annotated[str, msgspec.Meta(max_length=512)] = ""


class _Shown(msgspec.Struct, frozen=True):
    """What log-out looks for in a body: whatever else stands there is no reason to leave the device logged in."""

    refresh_token: str = ""


class TokenOutput(msgspec.Struct, kw_only=True):
    access_token: str
    refresh_token: Annotated[str, msgspec.Meta(description="Empty when it went into a cookie.")]
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - not a secret
    expires_in: Annotated[int, msgspec.Meta(description="Life of the access token, in seconds.")]


class GuestOutput(TokenOutput, kw_only=True):
    guest_id: UUID


class MessageOutput(msgspec.Struct, kw_only=True):
    message: str


def _set_cookies(grant: Grant, caller: Caller, header: str | None, device_proof: str = "") -> list[Cookie]:
    if not cookies.wanted(header):
        return []
    set_cookies = [cookies.refresh_cookie(grant.refresh_token, caller, max_age=grant.refresh_expires_in)]
    if device_proof:
        set_cookies.append(cookies.device_cookie(device_proof, caller))
    return set_cookies


def _token_output(grant: Grant, header: str | None) -> TokenOutput:
    return TokenOutput(
        access_token=grant.access_token,
        refresh_token="" if cookies.wanted(header) else grant.refresh_token,
        expires_in=grant.access_expires_in,
    )


@post(
    "/auth/register",
    opt=PUBLIC,
    summary="Register",
    description="Make an account and log in to it at once.",
    operation_id="register",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def register(
    data: JSONBody[RegisterInput],
    auth_service: NamedDependency[AuthService],
    caller: NamedDependency[Caller],
    refresh_cookie: RefreshCookieHeader = None,
) -> Response[TokenOutput]:
    account = NewAccount(email=data.email, username=data.username, password=data.password)
    grant = await auth_service.register(account, caller.client)
    proof = auth_service.new_device_proof(grant.user_id)
    return Response(_token_output(grant, refresh_cookie), cookies=_set_cookies(grant, caller, refresh_cookie, proof))


@post(
    "/auth/login",
    opt=PUBLIC,
    status_code=200,
    summary="Log in",
    description="The answer for a wrong password and for an unknown account is the same.",
    operation_id="login",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def login(
    data: JSONBody[LoginInput],
    request: Request[Any, Any, Any],
    auth_service: NamedDependency[AuthService],
    caller: NamedDependency[Caller],
    refresh_cookie: RefreshCookieHeader = None,
) -> Response[TokenOutput]:
    device = cookies.read(request, cookies.DEVICE) if cookies.wanted(refresh_cookie) else ""
    grant = await auth_service.login(data.email, data.password, caller.client, device=device)
    proof = auth_service.new_device_proof(grant.user_id)
    return Response(_token_output(grant, refresh_cookie), cookies=_set_cookies(grant, caller, refresh_cookie, proof))


@post(
    "/auth/guest",
    opt=PUBLIC,
    summary="Come in as a guest",
    description="An account without e-mail and password that is deleted after 24 hours.",
    operation_id="guest",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def guest(
    auth_service: NamedDependency[AuthService],
    caller: NamedDependency[Caller],
    refresh_cookie: RefreshCookieHeader = None,
) -> Response[GuestOutput]:
    grant = await auth_service.guest(caller.client)
    body = GuestOutput(**msgspec.structs.asdict(_token_output(grant, refresh_cookie)), guest_id=grant.user_id)
    return Response(body, cookies=_set_cookies(grant, caller, refresh_cookie))


@post(
    "/auth/refresh",
    opt=PUBLIC,
    status_code=200,
    summary="Refresh",
    description=(
        "Exchange a refresh token for the next pair. Repeated within ten seconds it gives the same one again; "
        "an older one ends the device."
    ),
    operation_id="refresh",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def refresh(
    request: Request[Any, Any, Any],
    auth_service: NamedDependency[AuthService],
    caller: NamedDependency[Caller],
    data: JSONBody[RefreshTokenInput | None] = None,
    refresh_cookie: RefreshCookieHeader = None,
) -> Response[TokenOutput]:
    grant = await auth_service.refresh(_refresh_token_of(data, request, refresh_cookie))
    return Response(_token_output(grant, refresh_cookie), cookies=_set_cookies(grant, caller, refresh_cookie))


@post(
    "/auth/logout",
    opt=PUBLIC,
    status_code=200,
    summary="Log out",
    description="Ends the device of the access token or refresh token that is sent. Never refuses.",
    operation_id="logout",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def logout(
    request: Request[Any, Any, Any],
    auth_service: NamedDependency[AuthService],
    caller: NamedDependency[Caller],
    refresh_cookie: RefreshCookieHeader = None,
) -> Response[MessageOutput]:
    try:
        access_token = bearer_token(request.scope)
    except Unauthenticated:
        # Another kind of Authorization header names no device of ours.
        access_token = None
    shown = await _shown_in(request) or _token_in_cookie(request, refresh_cookie)
    await auth_service.logout(access_token=access_token, refresh_token=shown)
    cleared = [cookies.cleared_refresh_cookie(caller)] if cookies.wanted(refresh_cookie) else []
    return Response(MessageOutput(message="Logged out."), cookies=cleared)


@post(
    "/auth/logout-all",
    status_code=200,
    summary="Log out everywhere",
    operation_id="logoutAll",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def logout_all(
    auth_service: NamedDependency[AuthService],
    principal: NamedDependency[Principal],
    caller: NamedDependency[Caller],
    refresh_cookie: RefreshCookieHeader = None,
) -> Response[MessageOutput]:
    await auth_service.logout_all(principal)
    cleared = [cookies.cleared_refresh_cookie(caller)] if cookies.wanted(refresh_cookie) else []
    return Response(MessageOutput(message="Logged out on all devices."), cookies=cleared)


def _refresh_token_of(
    data: JSONBody[RefreshTokenInput | None], request: Request[Any, Any, Any], header: str | None
) -> str:
    if data is not None and data.refresh_token:
        return data.refresh_token
    return _token_in_cookie(request, header)


def _token_in_cookie(request: Request[Any, Any, Any], header: str | None) -> str:
    return cookies.read(request, cookies.REFRESH) if cookies.wanted(header) else ""


async def _shown_in(request: Request[Any, Any, Any]) -> str:
    """The refresh token of a log-out, whatever type the body is said to have; none where it cannot be read."""
    try:
        return msgspec.json.decode(await request.body(), type=_Shown).refresh_token
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RequestEntityTooLarge):
        return ""


ROUTES = (register, login, guest, refresh, logout, logout_all)
