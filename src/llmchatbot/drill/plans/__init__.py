"""The plans: each breaks one thing, under load, and says what must still hold."""

from __future__ import annotations

from llmchatbot.drill.plans import cuts, databases, hints, pauses, readers, restarts, sends, stops, takeover
from llmchatbot.drill.plans.plan import Plan

__all__ = ["PLANS", "Plan"]

PLANS = (
    Plan(
        "cuts",
        cuts.run,
        "connections cut after any byte, inside ids and characters too: 0 lost, 0 doubled",
        client_side=True,
    ),
    Plan("readers-leave", readers.leave, "closed tabs: every answer is finished and accounted for", client_side=True),
    Plan("slow-readers", readers.slow, "readers that never read: bounded memory, closed in time, nobody else harmed"),
    Plan("double-sends", sends.run, "retries, timeouts, double clicks: one message for each intent", client_side=True),
    Plan("stop-anywhere", stops.run, "stop from another node: no token later than 0.5 s, upstream closed within 1 s"),
    Plan("kill-node", takeover.run, "kill -9 of the node that writes: others go on, the text is the uninterrupted one"),
    Plan("zombie", pauses.zombie, "a node that sleeps through its lease can store nothing any more"),
    Plan("clock", pauses.clock, "nodes that stand still for about a lease, under load"),
    Plan("rolling-restart", restarts.run, "SIGTERM to one node after the other: 0 failed sends, 0 lost characters"),
    Plan("database-restart", databases.restart, "PostgreSQL restarted under load: answers go on, no late 5xx"),
    Plan("database-kill", databases.kill, "kill -9 of PostgreSQL or a backend of it under load"),
    Plan(
        "database-hang",
        databases.hang,
        "PostgreSQL stands still and says nothing: everybody is answered in time",
        ready=databases.why_not,
    ),
    Plan("redis-flaky", hints.run, "Redis killed again and again: slower, never wrong", ready=hints.why_not),
)
