"""The feed of one person (protocol §4): dense numbers, written in the transaction of the change that they tell of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmchatbot.repositories.executor import Executor

# One statement: the row of the user is locked from here to the commit, so the numbers are dense and in commit order.
_APPEND = """
WITH numbered AS (
    UPDATE users SET last_event_seq = last_event_seq + cardinality($2::text[]) WHERE id = $1
    RETURNING id, last_event_seq - cardinality($2::text[]) AS before
)
INSERT INTO user_events (user_id, seq, payload)
SELECT numbered.id, numbered.before + entry.n, entry.payload
FROM numbered, unnest($2::text[]) WITH ORDINALITY AS entry (payload, n)
"""


async def append(executor: Executor, user_id: UUID, *payloads: Mapping[str, Any]) -> None:
    """Call it last in a transaction: it makes the person's other changes wait for the commit."""
    if payloads:
        await executor.execute(_APPEND, user_id, [_ascii(payload) for payload in payloads])


def _ascii(payload: Mapping[str, Any]) -> str:
    """As it is stored and sent: one line of ASCII (protocol §3)."""
    return json.dumps(payload, ensure_ascii=True, separators=(",", ":"))
