"""The product with everything on, but no token is stored: the same process as a relay, to see what storing costs.

Accounts, limits, rounds, readers and the ends of answers are as they are; only a round ends before its statement, and
an answer may end although the log does not hold it. Nothing that this program says is true after a crash.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from uuid import UUID

from llmchatbot.__main__ import main
from llmchatbot.repositories import answer_log
from llmchatbot.streaming.store import Batch

_IS_INCOMPLETE = "$3 <> (SELECT count(*) FROM generation_events WHERE generation_id = $1)"


async def _forget(self: answer_log.PostgresAnswerLog, node_id: UUID, batches: Sequence[Batch]) -> int:
    return sum(len(batch.payloads) for batch in batches)


if __name__ == "__main__":
    finish = answer_log._FINISH  # noqa: SLF001 # one condition of it is left out, and all the rest must stay
    if _IS_INCOMPLETE not in finish:
        raise SystemExit("the statement that ends an answer has changed; see what asks for the whole log in it now")
    answer_log._FINISH = finish.replace(_IS_INCOMPLETE, "$3 < 0")  # noqa: SLF001 # see above
    answer_log.PostgresAnswerLog.append = _forget  # type: ignore[method-assign]
    sys.exit(main(["serve"]))
