"""What `GET /metrics` of the LLM service shows, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Its own registry, so that several services in one process (tests) do not meet."""

    def __init__(self, *, slots: int) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "llm_service_requests", "Answers by how they ended.", ["protocol", "outcome"], registry=self._registry
        )
        self.tokens = Counter("llm_service_tokens", "Tokens read and written.", ["direction"], registry=self._registry)
        self.seconds = Histogram(
            "llm_service_request_seconds", "Whole answers.", ["protocol"], buckets=_SECONDS, registry=self._registry
        )
        self.first_token = Histogram(
            "llm_service_first_token_seconds", "Time to the first token.", buckets=_SECONDS, registry=self._registry
        )
        self._busy = Gauge("llm_service_slots_busy", "Slots at work, as the engine says.", registry=self._registry)
        self._waiting = Gauge("llm_service_requests_waiting", "Requests without a slot.", registry=self._registry)
        Gauge("llm_service_slots", "Slots there are.", registry=self._registry).set(slots)

    def render(self, *, busy: int, waiting: int) -> bytes:
        """The page, with the two values that are only known when asked for."""
        self._busy.set(busy)
        self._waiting.set(waiting)
        return generate_latest(self._registry)
