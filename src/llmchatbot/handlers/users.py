"""One's own profile, password and devices: `/api/v1/users/me`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody

from llmchatbot.handlers.auth import NO_STORE, Email, MessageOutput, NewPassword, Password, Username
from llmchatbot.handlers.clients import Caller
from llmchatbot.handlers.etags import etag_of, versions_of
from llmchatbot.handlers.inputs import Input
from llmchatbot.models.device_sessions import DeviceSession
from llmchatbot.models.principals import Principal
from llmchatbot.models.users import User
from llmchatbot.services.auth import AuthService, NewAccount
from llmchatbot.services.device_sessions import DeviceSessionService
from llmchatbot.services.users import UserService

TAGS = ["users"]

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description="Only if it still has this ETag; else the answer is 412.", required=False
    ),
]


class ProfileInput(Input, frozen=True, kw_only=True):
    username: Username


class PasswordInput(Input, frozen=True, kw_only=True):
    old_password: Password
    new_password: NewPassword


class UpgradeInput(Input, frozen=True, kw_only=True):
    email: Email
    username: Username
    password: NewPassword


class UserOutput(msgspec.Struct, kw_only=True):
    id: UUID
    email: str
    username: str
    created_at: datetime
    last_login_at: datetime | msgspec.UnsetType = msgspec.UNSET
    is_active: bool
    is_guest: bool


class DeviceOutput(msgspec.Struct, kw_only=True):
    id: UUID
    user_agent: str
    address: str
    created_at: datetime
    last_used_at: datetime
    expires_at: Annotated[datetime, msgspec.Meta(description="When it must log in again if it is not used.")]
    is_current: bool


def _user_response(user: User) -> Response[UserOutput]:
    body = UserOutput(
        id=user.id,
        email=user.email,
        username=user.username,
        created_at=user.created_at,
        last_login_at=user.last_login_at or msgspec.UNSET,
        is_active=user.is_active,
        is_guest=user.is_guest,
    )
    return Response(body, headers={"ETag": etag_of(user.version)})


def _device_output(session: DeviceSession, principal: Principal) -> DeviceOutput:
    return DeviceOutput(
        id=session.id,
        user_agent=session.user_agent,
        address=session.address,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        expires_at=session.idle_expires_at,
        is_current=session.id == principal.session_id,
    )


@get("/users/me", summary="Read your profile", operation_id="getMe", tags=TAGS, response_headers=NO_STORE)
async def get_me(
    user_service: NamedDependency[UserService], principal: NamedDependency[Principal]
) -> Response[UserOutput]:
    return _user_response(await user_service.get(principal.user_id))


@put("/users/me", summary="Change your name", operation_id="updateMe", tags=TAGS, response_headers=NO_STORE)
async def update_me(
    data: JSONBody[ProfileInput],
    user_service: NamedDependency[UserService],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[UserOutput]:
    user = await user_service.rename(principal.user_id, data.username, versions=versions_of(if_match))
    return _user_response(user)


@post(
    "/users/me/password",
    status_code=200,
    summary="Change your password",
    description="Needs the old one; logs out all other devices.",
    operation_id="changePassword",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def change_password(
    data: JSONBody[PasswordInput], auth_service: NamedDependency[AuthService], principal: NamedDependency[Principal]
) -> MessageOutput:
    await auth_service.change_password(principal, data.old_password, data.new_password)
    return MessageOutput(message="Password changed; all other devices are logged out.")


@post(
    "/users/me/upgrade",
    status_code=200,
    summary="Keep a guest's account",
    description="Gives a guest's account an e-mail and a password; its chats stay.",
    operation_id="upgradeGuest",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def upgrade_guest(
    data: JSONBody[UpgradeInput],
    auth_service: NamedDependency[AuthService],
    user_service: NamedDependency[UserService],
    principal: NamedDependency[Principal],
    caller: NamedDependency[Caller],
) -> Response[UserOutput]:
    account = NewAccount(email=data.email, username=data.username, password=data.password)
    await auth_service.upgrade_guest(principal, account, caller.client)
    return _user_response(await user_service.get(principal.user_id))


@get(
    "/users/me/sessions",
    summary="List your devices",
    description="Where you are logged in; the most recently used first, at most 100.",
    operation_id="listDevices",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def list_devices(
    device_session_service: NamedDependency[DeviceSessionService], principal: NamedDependency[Principal]
) -> list[DeviceOutput]:
    return [_device_output(one, principal) for one in await device_session_service.list_active(principal.user_id)]


@delete(
    "/users/me/sessions/{session_id:uuid}",
    status_code=200,
    summary="Log out one device",
    operation_id="endDevice",
    tags=TAGS,
    response_headers=NO_STORE,
)
async def end_device(
    session_id: FromPath[UUID],
    device_session_service: NamedDependency[DeviceSessionService],
    principal: NamedDependency[Principal],
) -> MessageOutput:
    await device_session_service.end_owned(principal.user_id, session_id)
    return MessageOutput(message="The device is logged out.")


ROUTES = (get_me, update_me, change_password, upgrade_guest, list_devices, end_device)
