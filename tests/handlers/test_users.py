"""`/api/v1/users/me` over HTTP: profile, password, devices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from llmchatbot.clock import ManualClock

Body = dict[str, Any]
Register = Callable[..., Awaitable[Body]]

ME = "/api/v1/users/me"
PASSWORD = "correct horse battery"


def bearer(body: Body) -> dict[str, str]:
    return {"Authorization": f"Bearer {body['access_token']}"}


async def log_in(http: httpx.AsyncClient, **headers: str) -> Body:
    credentials = {"email": "ada@example.com", "password": PASSWORD}
    response = await http.post("/api/v1/auth/login", json=credentials, headers=headers)
    assert response.status_code == 200
    body: Body = response.json()
    return body


async def test_the_profile_has_the_fields_of_the_first_backend(http: httpx.AsyncClient, register: Register) -> None:
    body = await register(email="Ada@Example.com")
    me = (await http.get(ME, headers=bearer(body))).json()
    assert set(me) == {"id", "email", "username", "created_at", "is_active", "is_guest"}
    assert (me["email"], me["username"], me["is_active"], me["is_guest"]) == ("ada@example.com", "Ada", True, False)
    await log_in(http)
    me = (await http.get(ME, headers=bearer(body))).json()
    assert datetime.fromisoformat(me["last_login_at"]).tzinfo is not None


async def test_a_new_name(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    changed = await http.put(ME, headers=bearer(body), json={"username": "Countess Ada"})
    assert (changed.status_code, changed.json()["username"]) == (200, "Countess Ada")
    read = await http.get(ME, headers=bearer(body))
    assert read.json() == changed.json()
    assert read.headers["etag"] == changed.headers["etag"] == '"2"'


async def test_if_match_prevents_a_lost_update(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    etag = (await http.get(ME, headers=bearer(body))).headers["etag"]
    first = await http.put(ME, headers={**bearer(body), "If-Match": etag}, json={"username": "First"})
    second = await http.put(ME, headers={**bearer(body), "If-Match": etag}, json={"username": "Second"})
    assert (first.status_code, second.status_code) == (200, 412)
    assert second.json()["code"] == "precondition_failed"
    assert (await http.get(ME, headers=bearer(body))).json()["username"] == "First"
    anything = await http.put(ME, headers={**bearer(body), "If-Match": "*"}, json={"username": "Third"})
    assert anything.status_code == 200


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({}, 400),
        ({"username": "ab"}, 400),
        ({"username": 5}, 400),
        ({"username": "Ada", "email": "x@y"}, 400),
        ({"username": "Ada", "is_active": False}, 400),
        ({"username": "A\0da"}, 422),
        ([], 400),
    ],
)
async def test_bad_profiles_are_refused(
    http: httpx.AsyncClient, register: Register, payload: object, status: int
) -> None:
    body = await register()
    response = await http.put(ME, headers=bearer(body), json=payload)
    assert response.status_code == status
    assert response.json()["errors"]


async def test_every_route_needs_a_log_in(http: httpx.AsyncClient) -> None:
    session = f"{ME}/sessions/01900000-0000-7000-8000-000000000001"
    requests = [
        ("GET", ME),
        ("PUT", ME),
        ("POST", f"{ME}/password"),
        ("POST", f"{ME}/upgrade"),
        ("GET", f"{ME}/sessions"),
        ("DELETE", session),
    ]
    for method, path in requests:
        response = await http.request(method, path)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated"), path
        assert response.headers["www-authenticate"] == 'Bearer realm="llmchatbot"'


async def test_devices_are_listed_and_ended(
    http: httpx.AsyncClient, register: Register, manual_clock: ManualClock
) -> None:
    here = await register()
    manual_clock.advance(60)
    there = await log_in(http, **{"User-Agent": "A phone"})
    devices = (await http.get(f"{ME}/sessions", headers=bearer(here))).json()
    assert devices[0]["user_agent"] == "A phone"
    assert [one["is_current"] for one in devices] == [False, True]
    assert set(devices[0]) == {
        *("id", "user_agent", "address", "created_at", "last_used_at", "expires_at", "is_current")
    }
    assert devices[0]["address"] == "192.0.2.1"
    ended = await http.delete(f"{ME}/sessions/{devices[0]['id']}", headers=bearer(here))
    assert (ended.status_code, list(ended.json())) == (200, ["message"])
    assert (await http.get(ME, headers=bearer(there))).status_code == 401
    assert (await http.get(ME, headers=bearer(here))).status_code == 200
    again = await http.delete(f"{ME}/sessions/{devices[0]['id']}", headers=bearer(here))
    assert again.status_code == 404


async def test_a_device_of_somebody_else_is_not_there(http: httpx.AsyncClient, register: Register) -> None:
    """Not distinguishable from one that does not exist."""
    ada, bob = await register(), await register(email="bob@example.com")
    [device] = (await http.get(f"{ME}/sessions", headers=bearer(bob))).json()
    taken = await http.delete(f"{ME}/sessions/{device['id']}", headers=bearer(ada))
    unknown = await http.delete(f"{ME}/sessions/01900000-0000-7000-8000-000000000001", headers=bearer(ada))
    assert taken.status_code == unknown.status_code == 404
    assert taken.content == unknown.content
    assert (await http.get(ME, headers=bearer(bob))).status_code == 200


async def test_a_password_change_keeps_this_device_only(http: httpx.AsyncClient, register: Register) -> None:
    here = await register()
    there = await log_in(http)
    wrong = await http.post(
        f"{ME}/password", headers=bearer(here), json={"old_password": "x", "new_password": "another horse battery"}
    )
    assert (wrong.status_code, wrong.json()["code"]) == (401, "bad_credentials")
    changed = await http.post(
        f"{ME}/password", headers=bearer(here), json={"old_password": PASSWORD, "new_password": "another horse battery"}
    )
    assert changed.status_code == 200
    assert (await http.get(ME, headers=bearer(here))).status_code == 200
    assert (await http.get(ME, headers=bearer(there))).status_code == 401


async def test_a_guest_becomes_a_lasting_account(http: httpx.AsyncClient) -> None:
    guest = (await http.post("/api/v1/auth/guest")).json()
    account = {"email": "ada@example.com", "username": "Ada", "password": PASSWORD}
    no_password = await http.post(
        f"{ME}/password", headers=bearer(guest), json={"old_password": "", "new_password": PASSWORD}
    )
    assert no_password.status_code == 409
    upgraded = await http.post(f"{ME}/upgrade", headers=bearer(guest), json=account)
    assert upgraded.status_code == 200
    assert upgraded.json()["is_guest"] is False
    assert upgraded.json()["id"] == guest["guest_id"]
    await log_in(http)
    assert (await http.post(f"{ME}/upgrade", headers=bearer(guest), json=account)).status_code == 409
