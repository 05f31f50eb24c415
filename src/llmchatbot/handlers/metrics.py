"""Figures for whoever watches: Prometheus text, by route and never by person, counted outside of the token's path."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from llmchatbot.errors import NotFound
from llmchatbot.handlers.authentication import PUBLIC
from llmchatbot.services.jobs import Pace

_PACES = (1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 350, 500, 1000)
_CONTENT_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")  # which the framework adds to every text
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is true now: read when it is asked for. `counts`: it only ever rises."""

    name: str
    help: str
    read: Callable[[], float]
    counts: bool = False


class Figures:
    """Counters of requests and answers, and what the parts of the process know when they are asked."""

    def __init__(self, states: Iterable[State], *, token: str) -> None:
        self.registry = CollectorRegistry()
        self._token = token
        self._requests = Counter(
            "llmchatbot_requests", "Answers by route and status.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "llmchatbot_request_seconds",
            "Time to the end of the answer; of a stream, its life.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._generations = Counter(
            "llmchatbot_generations",
            "Answers of models by how they ended.",
            ("model", "status"),
            registry=self.registry,
        )
        self._first_text = Histogram(
            "llmchatbot_first_token_seconds",
            "From asking the model to its first text.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._pace = Histogram(
            "llmchatbot_tokens_per_second",
            "Of one answer, from its first text on.",
            ("model",),
            buckets=_PACES,
            registry=self.registry,
        )
        self.registry.register(_States(states))
        ProcessCollector(namespace="llmchatbot", registry=self.registry)
        # Finding a child by its labels costs more than counting.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Called by the outermost layer for every request. Routes, methods and statuses are few and ours."""
        children = self._children.get((route, method, status))
        if children is None:
            children = self._requests.labels(route, method, str(status)), self._seconds.labels(route)
            self._children[route, method, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def observe_pace(self, pace: Pace) -> None:
        """Once an answer, at its end."""
        self._generations.labels(pace.model, pace.status.value).inc()
        if pace.first_text is not None:
            self._first_text.labels(pace.model).observe(pace.first_text)
        if pace.tokens_per_second is not None:
            self._pace.labels(pace.model).observe(pace.tokens_per_second)

    def require_watcher(self, request: Request[Any, Any, Any]) -> None:
        """Raises NotFound unless METRICS_TOKEN is presented or, without one, the caller is on this machine."""
        if self._token:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise NotFound
        elif not _is_local(request):
            raise NotFound


class _States(Collector):
    def __init__(self, states: Iterable[State]) -> None:
        self._states = tuple(states)

    def collect(self) -> Iterator[Metric]:
        for state in self._states:
            family = CounterMetricFamily if state.counts else GaugeMetricFamily
            yield family(f"llmchatbot_{state.name}", state.help, value=state.read())


def _is_local(request: Request[Any, Any, Any]) -> bool:
    """A proxy on this machine speaks for the whole world, and says so in a header."""
    client = request.scope.get("client")
    if client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


@get("/metrics", opt=PUBLIC, summary="Figures for Prometheus", operation_id="metrics", include_in_schema=False)
async def metrics(request: Request[Any, Any, Any], figures: NamedDependency[Figures]) -> Response[bytes]:
    """To this machine alone, or to whoever presents METRICS_TOKEN."""
    figures.require_watcher(request)
    return Response(generate_latest(figures.registry), media_type=_CONTENT_TYPE)


ROUTES = (metrics,)
