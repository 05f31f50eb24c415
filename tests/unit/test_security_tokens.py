"""Access tokens and refresh tokens: what is refused, and that nothing near a good token passes."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmchatbot.errors import InvalidToken
from llmchatbot.security import (
    AUDIENCE,
    ISSUER,
    AccessClaims,
    TokenKeys,
    derive_key,
    device_proof,
    find_device,
    hash_of,
    is_refresh_token,
    new_refresh_token,
    read_access_token,
    sign_access_token,
    successor_of,
)

KEYS = TokenKeys.of("one secret, long enough for everything")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
CLAIMS = AccessClaims(
    user_id=UUID("01900000-0000-7000-8000-000000000001"),
    session_id=UUID("01900000-0000-7000-8000-000000000002"),
    token_id=UUID("01900000-0000-7000-8000-000000000003"),
    issued_at=SECONDS - 10,
    expires_at=SECONDS + 890,
)
GOOD = sign_access_token(KEYS, CLAIMS)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(
    header: dict[str, Any] | None = None, *, drop: str = "", key: bytes = KEYS.access, alg: str = "HS256", **claims: Any
) -> str:
    """A token like ours but for the changes, signed with our key: only checks behind the signature can refuse it."""
    payload: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(CLAIMS.user_id),
        "sid": str(CLAIMS.session_id),
        "iat": CLAIMS.issued_at,
        "exp": CLAIMS.expires_at,
        "jti": str(CLAIMS.token_id),
        **claims,
    }
    payload.pop(drop, None)
    algorithm = jwt.get_algorithm_by_name(alg)
    full_header = {"alg": alg, "typ": "at+jwt", "kid": KEYS.kid, **(header or {})}
    full_header = {name: value for name, value in full_header.items() if value is not None}
    signing_input = f"{encode(json.dumps(full_header).encode())}.{encode(json.dumps(payload).encode())}"
    signature = algorithm.sign(signing_input.encode(), algorithm.prepare_key(key if alg != "none" else None))
    return f"{signing_input}.{encode(signature)}"


def with_signature_spelled_otherwise(token: str) -> str:
    """The same bytes: 43 characters hold 258 bits, so the last two of 256 bits' encoding are ignored by decoders."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def with_key_confusion() -> str:
    return forge(key=hash_of("another secret"), alg="HS256")


VECTORS: dict[str, Callable[[], str]] = {
    "01 empty": lambda: "",
    "02 two segments": lambda: GOOD.rpartition(".")[0],
    "03 four segments": lambda: GOOD + ".x",
    "04 padding": lambda: GOOD + "=",
    "05 white space around": lambda: f" {GOOD}\n",
    "06 not ASCII": lambda: GOOD[:-1] + "é",
    "07 longer than any of ours": lambda: forge(jti="x" * 2000),
    "08 alg none, no signature": lambda: forge(alg="none"),
    "09 alg none, old signature": lambda: forge(alg="none").rpartition(".")[0] + "." + GOOD.rpartition(".")[2],
    "10 alg in other letters": lambda: forge({"alg": "hs256"}),
    "11 alg HS512": lambda: forge(alg="HS512"),
    "12 alg RS256 in the header, HMAC in fact": lambda: forge({"alg": "RS256"}),
    "13 another key": with_key_confusion,
    "14 key of the refresh tokens": lambda: forge(key=KEYS.refresh),
    "15 the secret itself as key": lambda: forge(key=b"one secret, long enough for everything"),
    "16 typ JWT": lambda: forge({"typ": "JWT"}),
    "17 no typ": lambda: forge({"typ": None}),
    "18 no kid": lambda: forge({"kid": None}),
    "19 kid is a path": lambda: forge({"kid": "../../dev/null"}),
    "20 crit": lambda: forge({"crit": ["exp"]}),
    "21 jwk and jku": lambda: forge({"jwk": {"kty": "oct", "k": "AA"}, "jku": "http://127.0.0.1/"}),
    "22 b64 false": lambda: forge({"b64": False}),
    "23 exp is a string": lambda: forge(exp=str(CLAIMS.expires_at)),
    "24 exp is 1e300": lambda: forge(exp=1e300),
    "25 exp is a bool": lambda: forge(exp=True),
    "26 exp is now": lambda: forge(exp=SECONDS),
    "27 no exp": lambda: forge(drop="exp"),
    "28 exp far beyond iat": lambda: forge(exp=SECONDS + 10**9),
    "29 iat in the future": lambda: forge(iat=SECONDS + 600, exp=SECONDS + 900),
    "30 iat negative": lambda: forge(iat=-1),
    "31 another issuer": lambda: forge(iss="somebody"),
    "32 another audience": lambda: forge(aud="somewhere"),
    "33 audience is a list": lambda: forge(aud=[AUDIENCE]),
    "34 no sid": lambda: forge(drop="sid"),
    "35 sub is a number": lambda: forge(sub=1),
    "36 sub in braces": lambda: forge(sub="{" + str(CLAIMS.user_id) + "}"),
    "37 sub is null": lambda: forge(sub=None),
    "38 one claim more": lambda: forge(role="admin"),
    "39 nbf": lambda: forge(nbf=SECONDS - 10),
    "40 payload is a list": lambda: jwt.PyJWS().encode(b"[]", KEYS.access, headers={"typ": "at+jwt", "kid": KEYS.kid}),
    "41 payload is no JSON": lambda: jwt.PyJWS().encode(b"x", KEYS.access, headers={"typ": "at+jwt", "kid": KEYS.kid}),
    "42 signature of other spelling": lambda: with_signature_spelled_otherwise(GOOD),
    "43 signature cut": lambda: GOOD[:-1],
    "44 five parts of a JWE": lambda: "a.b.c.d.e",
}


def test_the_good_one_is_read() -> None:
    assert read_access_token(KEYS, GOOD, NOW) == CLAIMS
    assert read_access_token(KEYS, forge(), NOW) == CLAIMS


def test_header_is_exactly_alg_typ_kid() -> None:
    assert jwt.get_unverified_header(GOOD) == {"alg": "HS256", "typ": "at+jwt", "kid": KEYS.kid}


def test_claims_are_exactly_seven() -> None:
    claims = jwt.decode(GOOD, options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "sub", "sid", "iat", "exp", "jti"}


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_token_vectors_are_refused(vector: Callable[[], str]) -> None:
    with pytest.raises(InvalidToken):
        read_access_token(KEYS, vector(), NOW)


@pytest.mark.parametrize("changes_in_all", [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_no_token_with_flipped_bits_is_accepted(changes_in_all: int) -> None:
    """Every single bit, then random changes of one to eight bits."""
    rng = random.Random(25)
    raw = GOOD.encode()
    changes: list[tuple[int, ...]] = [(position,) for position in range(len(raw) * 8)]
    changes += [tuple(rng.sample(range(len(raw) * 8), rng.randint(1, 8))) for _ in range(changes_in_all)]
    accepted = 0
    for change in changes:
        mutated = bytearray(raw)
        for position in change:
            mutated[position // 8] ^= 1 << position % 8
        accepted += _accepts(mutated.decode("latin-1"))
    assert accepted == 0


def _accepts(token: str) -> bool:
    try:
        read_access_token(KEYS, token, NOW)
    except InvalidToken:
        return False
    return True


@given(st.text(max_size=400))
def test_any_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    assert not _accepts(text)


def test_expired_tokens_serve_for_log_out_only() -> None:
    later = NOW + timedelta(hours=2)
    assert not _accepts_at(GOOD, later)
    assert read_access_token(KEYS, GOOD, later, allow_expired=True) == CLAIMS
    with pytest.raises(InvalidToken):
        read_access_token(KEYS, with_key_confusion(), later, allow_expired=True)


def _accepts_at(token: str, now: datetime) -> bool:
    try:
        read_access_token(KEYS, token, now)
    except InvalidToken:
        return False
    return True


def test_keys_of_one_secret_are_independent() -> None:
    labels = ["access token", "refresh token successor", "known device", "key id"]
    assert len({derive_key("secret", label) for label in labels}) == len(labels)
    assert TokenKeys.of("another secret").access != KEYS.access
    assert KEYS.access.hex() not in repr(KEYS)


def test_key_derivation_is_hkdf_of_rfc_5869() -> None:
    """Against the general form: extract, then expand to one block of SHA-256."""
    import hashlib
    import hmac

    prk = hmac.new(b"llmchatbot", b"secret", hashlib.sha256).digest()
    assert derive_key("secret", "label") == hmac.new(prk, b"label\x01", hashlib.sha256).digest()


def test_refresh_tokens_are_random_and_have_one_form() -> None:
    tokens = {new_refresh_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(is_refresh_token(token) for token in tokens)


@pytest.mark.parametrize("text", ["", "a" * 42, "a" * 44, "é" * 43, "=" * 43, "a" * 42 + "\n", "a" * 42 + "b"])
def test_other_forms_are_no_refresh_tokens(text: str) -> None:
    assert not is_refresh_token(text)


def test_the_successor_is_one_and_tells_nothing_without_the_key() -> None:
    token = new_refresh_token()
    successor = successor_of(KEYS, token)
    assert successor == successor_of(KEYS, token)
    assert is_refresh_token(successor)
    assert successor != successor_of(TokenKeys.of("another secret"), token)
    assert successor != token


def test_a_device_proof_is_for_one_account() -> None:
    proof = device_proof(KEYS, CLAIMS.user_id, CLAIMS.session_id)
    assert find_device(KEYS, CLAIMS.user_id, proof) == CLAIMS.session_id
    assert find_device(KEYS, CLAIMS.token_id, proof) is None
    assert find_device(KEYS, CLAIMS.user_id, proof[:-1] + ("A" if proof[-1] != "A" else "B")) is None
    for nonsense in ("", ".", "x.y", f"{CLAIMS.session_id}.", f"{CLAIMS.session_id}.\udc80é"):
        assert find_device(KEYS, CLAIMS.user_id, nonsense) is None
