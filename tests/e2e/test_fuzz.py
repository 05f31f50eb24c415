"""Every operation of the OpenAPI document with made-up input, good and bad: no 5xx, no answer that is not documented.

Ids in paths are mostly real: half of them one's own, a quarter somebody else's, whose data must be the same afterwards.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from nodes import Node, Person
from schemathesis.config import SchemathesisConfig
from tests.conftest import run_apart

EXAMPLES = 20
# Of one operation, in the mean: with several workers each has only some of the operations.
FEWEST_CALLS = 25
CHATS = 30
# Reads that only end when there is nothing more to come are asked for what is there now.
ENDLESS = {"streamEvents", "streamGeneration", "streamChat"}
SCHEMA = schemathesis.openapi.from_dict(
    json.loads((Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_text(encoding="utf-8")),
    config=SchemathesisConfig.from_dict(
        {
            # Tokens are sent by the test; unknown parameters are ignored, as HTTP servers do.
            "generation": {"with-security-parameters": False, "allow-extra-parameters": False},
            "checks": {
                # Also refused: what is not there, not ours, not in a fitting state, or not in a fitting form to come.
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "400", "401", "403", "404", "405", "406", "409", "412", "422", "429"]
                }
            },
        }
    ),
)


class Belongings(msgspec.Struct):
    token: str
    ids: dict[str, list[str]]


class Target(msgspec.Struct):
    node: Node
    mine: Belongings
    theirs: Belongings
    session: requests.Session
    calls: dict[str, int]

    def id_for(self, name: str, drawn: UUID) -> str:
        """One of mine, of theirs, or the one that was drawn and that nobody has."""
        owner = (self.mine, self.mine, self.theirs, None)[drawn.int % 4]
        known = owner.ids.get(name) if owner is not None else None
        return known[(drawn.int >> 2) % len(known)] if known else str(drawn)

    def fresh_token(self) -> str:
        answer = self.session.post(f"{self.node.base}/api/v1/auth/guest", timeout=10)
        token: str = answer.json()["access_token"]
        return token


async def settle(node: Node) -> Belongings:
    """An account with chats, messages, answers."""
    async with Person(node) as person:
        chats = [await person.chat(title=f"chat {number}") for number in range(CHATS)]
        generations = [await person.start(chat, "hello") for chat in chats[::10]]
        for generation in generations:
            await person.events(generation)
        messages = [message["id"] for chat in chats[::10] for message in await person.messages(chat)]
        _, devices = await person.request("GET", "/api/v1/users/me/sessions")
        return Belongings(
            token=person.token,
            ids={
                "chat_id": chats,
                "generation_id": generations,
                "message_id": messages,
                "session_id": [device["id"] for device in devices],
            },
        )


async def everything(node: Node, token: str) -> list[Any]:
    """What somebody sees of their own."""
    person = Person(node)
    person.token = token
    try:
        _, profile = await person.request("GET", "/api/v1/users/me")
        _, chats = await person.request("GET", "/api/v1/chats?limit=100&include_archived=true")
        return [profile, chats, [await person.messages(chat["id"]) for chat in chats]]
    finally:
        await person.session.close()


@pytest.fixture(scope="module")
def target(node: Node) -> Iterator[Target]:
    with requests.Session() as session:
        made = Target(
            node=node,
            mine=run_apart(settle(node)),
            theirs=run_apart(settle(node)),
            session=session,
            calls={},
        )
        before = run_apart(everything(node, made.theirs.token))
        yield made
        assert run_apart(everything(node, made.theirs.token)) == before, "somebody else's data was touched"
        assert "Traceback" not in node.log()
        assert sum(made.calls.values()) >= FEWEST_CALLS * len(made.calls)


def prepare(case: schemathesis.Case[Any], target: Target) -> dict[str, str]:
    """Make ids real and streams short. Returns the headers that say who is asking."""
    name = case.operation.definition.raw["operationId"]
    target.calls[name] = target.calls.get(name, 0) + 1
    for parameter, value in (case.path_parameters or {}).items():
        with contextlib.suppress(ValueError):
            case.path_parameters[parameter] = target.id_for(parameter, UUID(str(value)))
    if name in ENDLESS and would_wait((case.query or {}).get("wait")):
        case.query = {**(case.query or {}), "wait": 0}
    if case.operation.definition.raw.get("security") == []:
        return {}
    # Whoever is logged out everywhere is somebody new each time.
    own = name in {"logoutAll", "endDevice"}
    return {"Authorization": f"Bearer {target.fresh_token() if own else target.mine.token}"}


def would_wait(drawn: Any) -> bool:
    """What is refused anyhow stays as it was drawn."""
    if isinstance(drawn, list):
        return not drawn or would_wait(drawn[-1])
    try:
        return drawn in {None, "null"} or 0 <= float(drawn) <= 60
    except (TypeError, ValueError):
        return False


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_every_operation_keeps_to_its_document(case: schemathesis.Case[Any], target: Target) -> None:
    headers = prepare(case, target)
    response = case.call(base_url=target.node.base, headers=headers, session=target.session, timeout=20)
    case.validate_response(response, headers=headers)
