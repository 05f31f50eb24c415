"""`/api/v1/auth` over HTTP: the wire contract of spec §2 and the rules of protocol §7."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from llmchatbot.clock import ManualClock
from llmchatbot.database.address import Address
from llmchatbot.database.pool import Database
from llmchatbot.services.accounts import Accounts

Body = dict[str, Any]
Register = Callable[..., Awaitable[Body]]

AUTH = "/api/v1/auth"
PASSWORD = "correct horse battery"
COOKIE = {"X-Refresh-Cookie": "1"}


def bearer(body: Body) -> dict[str, str]:
    return {"Authorization": f"Bearer {body['access_token']}"}


async def log_in(http: httpx.AsyncClient, email: str = "ada@example.com", password: str = PASSWORD) -> httpx.Response:
    return await http.post(f"{AUTH}/login", json={"email": email, "password": password})


async def refresh(http: httpx.AsyncClient, token: str) -> httpx.Response:
    return await http.post(f"{AUTH}/refresh", json={"refresh_token": token})


async def status_of_me(http: httpx.AsyncClient, body: Body) -> int:
    return (await http.get("/api/v1/users/me", headers=bearer(body))).status_code


def is_problem(response: httpx.Response, status: int, code: str) -> Body:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: Body = response.json()
    assert body["code"] == code
    assert isinstance(body["error"], str)
    return body


# The contract that clients of the first backend rely on.


async def test_register_log_in_and_refresh_answer_a_token_pair(http: httpx.AsyncClient, register: Register) -> None:
    registered = await register()
    logged_in = await log_in(http)
    refreshed = await refresh(http, registered["refresh_token"])
    assert (logged_in.status_code, refreshed.status_code) == (200, 200)
    for body in (registered, logged_in.json(), refreshed.json()):
        assert set(body) == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 900)
        assert await status_of_me(http, body) == 200


async def test_a_guest_gets_the_same_body_and_an_id(http: httpx.AsyncClient) -> None:
    response = await http.post(f"{AUTH}/guest")
    assert response.status_code == 201
    body = response.json()
    assert set(body) == {"access_token", "refresh_token", "token_type", "expires_in", "guest_id"}
    me = (await http.get("/api/v1/users/me", headers=bearer(body))).json()
    assert me["id"] == str(UUID(body["guest_id"]))
    assert me["is_guest"] is True


async def test_log_out_by_the_bearer_header_alone_answers_200_twice(
    http: httpx.AsyncClient, register: Register
) -> None:
    body = await register()
    for _ in range(2):
        response = await http.post(f"{AUTH}/logout", headers=bearer(body))
        assert (response.status_code, list(response.json())) == (200, ["message"])
    assert await status_of_me(http, body) == 401
    is_problem(await refresh(http, body["refresh_token"]), 401, "invalid_refresh_token")


async def test_log_out_by_the_refresh_token_in_the_body(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    response = await http.post(f"{AUTH}/logout", json={"refresh_token": body["refresh_token"]})
    assert response.status_code == 200
    assert await status_of_me(http, body) == 401


async def test_log_out_with_an_expired_access_token_still_logs_out(
    http: httpx.AsyncClient, register: Register, manual_clock: ManualClock
) -> None:
    body = await register()
    manual_clock.advance(901)
    assert (await http.post(f"{AUTH}/logout", headers=bearer(body))).status_code == 200
    is_problem(await refresh(http, body["refresh_token"]), 401, "invalid_refresh_token")


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}]
)
async def test_log_out_never_refuses(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await http.post(f"{AUTH}/logout", headers=headers)).status_code == 200
    empty = {**headers, "Content-Type": "application/json"}
    assert (await http.post(f"{AUTH}/logout", headers=empty)).status_code == 200
    assert (await http.post(f"{AUTH}/logout", headers=headers, json={"refresh_token": "x"})).status_code == 200


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (JSON, b'{"refresh_token": null}'),
        (JSON, b'{"refresh_token": 1}'),
        (JSON, b'{"refresh_token": "", "everywhere": false}'),
        (JSON, b'{"refresh_token": "' + b"x" * 513 + b'"}'),
        (JSON, b'{"refresh_token": "\\ud800"}'),
        (JSON, b'{"refresh_token": "\\u0000"}'),
        (JSON, b'"' + b"x" * 11_000_000 + b'"'),
        (JSON, b"[" * 100_000),
        (JSON, b"null"),
        (JSON, b"{"),
        (JSON, b"\xff"),
        ({"Content-Type": "text/plain"}, b"bye"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"refresh_token=x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--"),
        ({}, b"bye"),
    ],
)
async def test_log_out_never_refuses_whatever_the_body(
    http: httpx.AsyncClient, register: Register, headers: dict[str, str], content: bytes
) -> None:
    """The bearer header says which device; what stands in the body is no reason to leave it logged in."""
    body = await register()
    response = await http.post(f"{AUTH}/logout", headers={**headers, **bearer(body)}, content=content)
    assert response.status_code == 200, response.text
    assert await status_of_me(http, body) == 401


async def test_log_out_finds_the_refresh_token_among_unknown_fields(
    http: httpx.AsyncClient, register: Register
) -> None:
    body = await register()
    answer = await http.post(f"{AUTH}/logout", json={"refresh_token": body["refresh_token"], "everywhere": False})
    assert answer.status_code == 200
    assert await status_of_me(http, body) == 401


# Fault 8 of the first backend: log-out did nothing; refresh tokens were never rotated or revoked; the token of a
# deactivated account went on working.


async def test_fault_8_log_out_works_now(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    assert await status_of_me(http, body) == 200
    await http.post(f"{AUTH}/logout", headers=bearer(body))
    response = await http.get("/api/v1/users/me", headers=bearer(body))
    is_problem(response, 401, "invalid_token")
    assert response.headers["www-authenticate"] == 'Bearer realm="llmchatbot", error="invalid_token"'


async def test_fault_8_refresh_tokens_are_rotated(
    http: httpx.AsyncClient, register: Register, manual_clock: ManualClock
) -> None:
    first = await register()
    second = (await refresh(http, first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    manual_clock.advance(11)
    is_problem(await refresh(http, first["refresh_token"]), 401, "invalid_refresh_token")


async def test_fault_8_refresh_tokens_are_revoked_by_log_out(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    await http.post(f"{AUTH}/logout", headers=bearer(body))
    is_problem(await refresh(http, body["refresh_token"]), 401, "invalid_refresh_token")


async def test_fault_8_a_deactivated_accounts_token_stops_working(
    http: httpx.AsyncClient, register: Register, db: Database, manual_clock: ManualClock
) -> None:
    body = await register()
    assert await status_of_me(http, body) == 200
    await db.execute("UPDATE users SET is_active = false")
    manual_clock.advance(5)
    assert await status_of_me(http, body) == 401
    is_problem(await refresh(http, body["refresh_token"]), 401, "invalid_refresh_token")
    is_problem(await log_in(http), 401, "bad_credentials")


async def test_a_reused_token_ends_its_family_before_the_refusal_is_sent(
    http: httpx.AsyncClient, register: Register, database: Address, manual_clock: ManualClock
) -> None:
    """Read from a second connection after the 401: a refusal that rolls the revocation back would not be seen below."""
    first = await register()
    second = (await refresh(http, first["refresh_token"])).json()
    manual_clock.advance(11)
    is_problem(await refresh(http, first["refresh_token"]), 401, "invalid_refresh_token")
    connection = await asyncpg.connect(**database.connect_arguments())
    try:
        reason = await connection.fetchval("SELECT revoked_reason FROM device_sessions WHERE revoked_at IS NOT NULL")
    finally:
        await connection.close()
    assert reason == "refresh token reused"
    assert await status_of_me(http, second) == 401
    is_problem(await refresh(http, second["refresh_token"]), 401, "invalid_refresh_token")


async def test_log_out_everywhere(http: httpx.AsyncClient, register: Register) -> None:
    here = await register()
    there = (await log_in(http)).json()
    assert (await http.post(f"{AUTH}/logout-all", headers=bearer(here))).status_code == 200
    assert [await status_of_me(http, body) for body in (here, there)] == [401, 401]
    is_problem(await http.post(f"{AUTH}/logout-all"), 401, "unauthenticated")


# Nothing tells who has an account.


async def test_a_wrong_password_and_an_unknown_account_are_answered_alike(
    http: httpx.AsyncClient, register: Register, db: Database
) -> None:
    await register()
    await register(email="closed@example.com")
    await db.execute("UPDATE users SET is_active = false WHERE email = 'closed@example.com'")
    guest = (await http.post(f"{AUTH}/guest")).json()
    answers = [
        await log_in(http, password="wrong"),
        await log_in(http, email="nobody@example.com"),
        await log_in(http, email="closed@example.com"),
        await log_in(http, email="no address at all"),
        await log_in(http, email=f"guest-{guest['guest_id']}@guest.invalid"),
        await log_in(http, password=""),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert len({tuple(sorted(answer.headers.items())) for answer in answers}) == 1


async def test_unknown_revoked_and_reused_refresh_tokens_are_answered_alike(
    http: httpx.AsyncClient, register: Register, manual_clock: ManualClock
) -> None:
    revoked, reused = await register(), (await log_in(http)).json()
    await http.post(f"{AUTH}/logout", headers=bearer(revoked))
    await refresh(http, reused["refresh_token"])
    manual_clock.advance(11)
    answers = [
        await refresh(http, revoked["refresh_token"]),
        await refresh(http, reused["refresh_token"]),
        await refresh(http, "A" * 43),
        await refresh(http, "x"),
        await http.post(f"{AUTH}/refresh"),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1


async def test_too_many_guesses_are_answered_429_with_headers(http: httpx.AsyncClient, register: Register) -> None:
    await register()
    for _ in range(20):
        is_problem(await log_in(http, password="wrong"), 401, "bad_credentials")
    response = await log_in(http)
    is_problem(response, 429, "rate_limited")
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["ratelimit-policy"] == '"login";q=20;w=3600'
    assert response.headers["ratelimit"].startswith('"login";r=0;t=')


# Bad input.

REGISTRATION: Body = {"email": "ada@example.com", "username": "Ada", "password": PASSWORD}


@pytest.mark.parametrize("field", ["email", "username", "password"])
async def test_nul_is_refused_with_422_and_the_fields_name(http: httpx.AsyncClient, field: str) -> None:
    value = REGISTRATION[field][:2] + "\0" + REGISTRATION[field][2:]
    response = await http.post(f"{AUTH}/register", json={**REGISTRATION, field: value})
    body = is_problem(response, 422, "unprocessable_input")
    assert body["errors"][0]["field"] == field


@pytest.mark.parametrize("surrogate", ["\\ud800", "\\udfff", "\\ud800\\u0041"])
@pytest.mark.parametrize("path", ["register", "login", "refresh"])
async def test_lone_surrogates_are_refused_with_422(http: httpx.AsyncClient, surrogate: str, path: str) -> None:
    content = f'{{"refresh_token": "{surrogate}", "email": "a@b", "username": "Ada", "password": "{PASSWORD}"}}'
    response = await http.post(f"{AUTH}/{path}", content=content, headers={"Content-Type": "application/json"})
    is_problem(response, 422, "unprocessable_input")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "no address"),
        ("email", "two@at@signs"),
        ("email", "spa ce@example.com"),
        ("email", "ada@example.com\n"),
        ("email", "tab\t@example.com"),
        ("email", "@example.com"),
        ("email", "a" * 251 + "@b.c"),
        ("email", 1),
        ("email", None),
        ("username", "ab"),
        ("username", "a" * 101),
        ("username", "   "),
        ("username", "Ada\n"),
        ("username", "A\x1bda"),
        ("username", ["Ada"]),
        ("password", "short"),
        ("password", "a" * 257),
        ("password", "password123"),
        ("password", {"a": 1}),
        ("is_active", True),
        ("id", "01900000-0000-7000-8000-000000000001"),
    ],
)
async def test_bad_fields_are_named_with_400(http: httpx.AsyncClient, field: str, value: object) -> None:
    response = await http.post(f"{AUTH}/register", json={**REGISTRATION, field: value})
    body = is_problem(response, 400, "invalid_input")
    assert [entry["field"] for entry in body["errors"]] == [field]
    assert "regex" not in response.text


async def test_an_address_that_is_taken_is_answered_409(http: httpx.AsyncClient, register: Register) -> None:
    await register()
    response = await http.post(f"{AUTH}/register", json={**REGISTRATION, "email": "ADA@Example.com"})
    is_problem(response, 409, "email_taken")


@pytest.mark.parametrize(
    "password", ["a" * 8 + "bc", "пароль для Ады", "🐎🐴🦄" * 3, " spaces count ", "xyz" * 85 + "x"]
)
async def test_passwords_are_taken_as_they_are(http: httpx.AsyncClient, register: Register, password: str) -> None:
    await register(password=password)
    assert (await log_in(http, password=password)).status_code == 200
    for other in (password[1:], password[:-1], password.swapcase() + "!"):
        assert (await log_in(http, password=other[:256])).status_code == 401


async def test_answers_are_never_stored_by_caches(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    answers = [
        await log_in(http),
        await log_in(http, password="wrong"),
        await refresh(http, body["refresh_token"]),
        await http.post(f"{AUTH}/guest"),
        await http.get("/api/v1/users/me", headers=bearer(body)),
        await http.get("/api/v1/users/me/sessions", headers=bearer(body)),
        await http.post(f"{AUTH}/logout", headers=bearer(body)),
    ]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


# The cookie of the web page.


def set_cookies(response: httpx.Response) -> dict[str, str]:
    return {line.partition("=")[0]: line for line in response.headers.get_list("set-cookie")}


async def test_with_the_header_the_refresh_token_lives_in_a_cookie(http: httpx.AsyncClient, accounts: Accounts) -> None:
    registered = await http.post(f"{AUTH}/register", json=REGISTRATION, headers=COOKIE)
    assert registered.json()["refresh_token"] == ""
    line = set_cookies(registered)["refresh_token"]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/api/v1/auth", "Max-Age=604800"):
        assert attribute in line
    assert "Secure" not in line
    refreshed = await http.post(f"{AUTH}/refresh", headers=COOKIE)
    assert refreshed.status_code == 200
    assert refreshed.json()["refresh_token"] == ""
    assert set_cookies(refreshed)["refresh_token"] != line
    logged_out = await http.post(f"{AUTH}/logout", headers=COOKIE)
    assert "Max-Age=0" in set_cookies(logged_out)["refresh_token"]
    assert await status_of_me(http, refreshed.json()) == 401, "the cookie alone logged the device out"


async def test_over_https_cookies_are_secure(http: httpx.AsyncClient) -> None:
    response = await http.post(f"https://testserver.local{AUTH}/guest", headers=COOKIE)
    assert all("Secure" in line for line in set_cookies(response).values())


@pytest.mark.parametrize("header", [{}, {"X-Refresh-Cookie": "0"}, {"X-Refresh-Cookie": "true"}])
async def test_without_the_header_cookies_are_neither_read_nor_written(
    http: httpx.AsyncClient, header: dict[str, str]
) -> None:
    """A page of another site can make a browser send the cookie, but not the header."""
    victim = (await http.post(f"{AUTH}/register", json=REGISTRATION, headers=COOKIE)).json()
    refreshed = await http.post(f"{AUTH}/refresh", headers=header)
    assert refreshed.status_code == 401
    logged_out = await http.post(f"{AUTH}/logout", headers=header)
    guest = await http.post(f"{AUTH}/guest", headers=header)
    assert not any(set_cookies(answer) for answer in (refreshed, logged_out, guest))
    assert await status_of_me(http, victim) == 200


async def test_a_browser_that_logged_in_before_is_never_locked_out(http: httpx.AsyncClient, register: Register) -> None:
    """Its cookie `device` says so; an attacker behind the same address has none."""
    await http.post(f"{AUTH}/register", json=REGISTRATION, headers=COOKIE)
    await http.post(f"{AUTH}/logout", headers=COOKIE)
    credentials = {"email": "ada@example.com", "password": PASSWORD}
    for _ in range(21):
        await log_in(http, password="wrong")
    is_problem(await http.post(f"{AUTH}/login", json=credentials), 429, "rate_limited")
    assert (await http.post(f"{AUTH}/login", json=credentials, headers=COOKIE)).status_code == 200


async def test_tokens_in_urls_are_refused(http: httpx.AsyncClient, register: Register) -> None:
    body = await register()
    response = await http.get(f"/api/v1/users/me?access_token={body['access_token']}")
    is_problem(response, 400, "token_in_url")
